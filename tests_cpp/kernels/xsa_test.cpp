#include "kernels/xsa.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

// Values lie inside a packed row, behind H + G other heads: strided, as attention keeps them.
OpCase xsa(int64_t B, int64_t T, int64_t H, int64_t G, int64_t d) {
  const int64_t W = (H + 2 * G) * d;
  const auto values = [=](Tensor packed) { return packed.slice(2, (H + G) * d, W).split_last(d); };
  OpCase c;
  c.name = words("xsa", B, T, H, G, d);
  c.inputs = {{"y", {B, T, H, d}}, {"qkv", {B, T, W}, Write::add}};
  c.outputs = {{{B, T, H, d}}};
  c.forward = [=](OpRun& r) { xsa_forward(r.ctx, r.in[0], values(r.in[1]), r.out[0]); };
  c.backward = [=](OpRun& r) {
    xsa_backward_input(r.ctx, values(r.in[1]), r.dout[0], r.din[0]);
    xsa_backward_value(r.ctx, r.in[0], values(r.in[1]), r.dout[0], values(r.din[1]));
  };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t n = 0; n < B * T; ++n)
      for (int64_t h = 0; h < H; ++h) {
        const double* v = &in[1][n * W + (H + G + h / (H / G)) * d];
        const double* y = &in[0][(n * H + h) * d];
        double length = 0, along = 0;
        for (int64_t j = 0; j < d; ++j) length += v[j] * v[j];
        length = std::max(std::sqrt(length), 1e-12);
        for (int64_t j = 0; j < d; ++j) along += y[j] * v[j] / length;
        for (int64_t j = 0; j < d; ++j) out.push_back(y[j] - along * v[j] / length);
      }
    return Lists{out};
  };
  return c;
}

std::vector<OpCase> small() {
  return {xsa(1, 1, 1, 1, 2), xsa(3, 1, 2, 1, 3), xsa(1, 7, 4, 2, 5), xsa(2, 5, 3, 3, 17), xsa(2, 9, 6, 2, 4)};
}
std::vector<OpCase> large() {
  return {xsa(2, 100, 8, 4, 64), xsa(1, 133, 6, 2, 33)};
}

std::vector<OpCase> cuda() {
  return {xsa(2, 500, 8, 4, 64), xsa(1, 301, 8, 8, 64),  xsa(1, 300, 12, 4, 128),
          xsa(2, 210, 6, 2, 12), xsa(1, 205, 4, 1, 100), xsa(2, 201, 2, 2, 5)};
}

BG_PROVE_OP(Xsa, small(), large())
BG_PROVE_CUDA(Xsa, cuda())

TEST(Xsa, ResultIsOrthogonalToTheValueAndTheSameTwice) {
  const Ctx ctx = context(DType::f64);
  Owned y = Owned::normal(DType::f64, {1, 3, 2, 8}, "y"), v = Owned::normal(DType::f64, {1, 3, 1, 8}, "v");
  xsa_forward(ctx, y, v, y);
  for (int64_t row = 0; row < 6; ++row) {
    double along = 0;
    for (int64_t j = 0; j < 8; ++j) along += y.at(row * 8 + j) * v.at(row / 2 * 8 + j);
    EXPECT_NEAR(along, 0, tolerance::kExact * 10);
  }
}

TEST(Xsa, AValueOfZeroTakesNothingAwayAndGivesNoNaN) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Ctx ctx = context(dtype);
    Owned y = Owned::normal(dtype, {1, 1, 1, 4}, "y"), v(dtype, {1, 1, 1, 4}), out(dtype, {1, 1, 1, 4}),
          dv(dtype, {1, 1, 1, 4}), dy(dtype, {1, 1, 1, 4}), dout = Owned::normal(dtype, {1, 1, 1, 4}, "dout");
    v.fill(0);
    dv.fill(0);
    xsa_forward(ctx, y, v, out);
    EXPECT_EQ(out.bits(), y.bits());
    xsa_backward_input(ctx, v, dout, dy);
    EXPECT_EQ(dy.bits(), dout.bits());
    xsa_backward_value(ctx, y, v, dout, dv);
    for (double g : dv.values()) EXPECT_EQ(g, 0);
  }
}

}  // namespace
}  // namespace bg
