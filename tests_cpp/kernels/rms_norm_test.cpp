#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"

namespace bg {
namespace {

OpCase rms_norm(int64_t N, int64_t D, double scale, double eps, Write write) {
  OpCase c;
  c.name = words("rms_norm", N, D, scale, eps, write == Write::add ? "add" : "set");
  c.inputs = {{"x", {N, D}, write, 1, 0.5}};
  c.outputs = {{{N, D}}};
  c.forward = [=](OpRun& r) { rms_norm_forward(r.ctx, r.in[0], scale, eps, r.out[0], r.keep_full({N})); };
  c.backward = [=](OpRun& r) { rms_norm_backward(r.ctx, r.out[0], r.kept[0], scale, r.dout[0], r.din[0], write); };
  c.formula = [=](const Lists& in) {
    std::vector<double> y(in[0]);
    for (int64_t n = 0; n < N; ++n) {
      double square = 0;
      for (int64_t i = 0; i < D; ++i) square += in[0][n * D + i] * in[0][n * D + i];
      for (int64_t i = 0; i < D; ++i) y[n * D + i] *= scale / std::sqrt(square / static_cast<double>(D) + eps);
    }
    return Lists{y};
  };
  return c;
}

std::vector<OpCase> small() {
  std::vector<OpCase> cases;
  for (int64_t D : {1, 3, 17})
    for (int64_t N : {1, 21})
      for (Write write : {Write::set, Write::add}) cases.push_back(rms_norm(N, D, 0.7, 0.1, write));
  cases.push_back(rms_norm(5, 17, 1, 1.1920929e-7, Write::set));
  return cases;
}
std::vector<OpCase> large() {
  return {rms_norm(257, 512, 0.5, 1.1920929e-7, Write::set), rms_norm(130, 515, 1, 1.1920929e-7, Write::add)};
}

std::vector<OpCase> cuda() {
  std::vector<OpCase> cases;
  for (int64_t D : {5, 12, 64, 100, 256, 384, 512, 768, 1024, 2048, 4100})
    for (Write write : {Write::set, Write::add}) cases.push_back(rms_norm(D > 1024 ? 33 : 515, D, 0.5, 1e-6, write));
  return cases;
}

BG_PROVE_OP(RmsNorm, small(), large())
BG_PROVE_CUDA(RmsNorm, cuda())

TEST(RmsNorm, WorksInPlace) {
  const Ctx ctx = context(DType::f64);
  Owned x = Owned::normal(DType::f64, {3, 17}, "x"), y(DType::f64, {3, 17}), rstd(DType::f64, {3});
  Owned dx = Owned::normal(DType::f64, {3, 17}, "dy"), dy = Owned::normal(DType::f64, {3, 17}, "dy");
  rms_norm_forward(ctx, x, 2, 1e-3, y, rstd);
  Owned apart(DType::f64, {3, 17});
  rms_norm_backward(ctx, y, rstd, 2, dy, apart, Write::set);
  rms_norm_backward(ctx, y, rstd, 2, dx, dx, Write::set);
  EXPECT_EQ(dx.bits(), apart.bits());
  rms_norm_forward(ctx, x, 2, 1e-3, x, rstd);
  EXPECT_EQ(x.bits(), y.bits());
}

TEST(RmsNorm, ARowOfZerosStaysZero) {
  for (DType dtype : {DType::f32, DType::f64}) {
    Owned x(dtype, {2, 8}), y = Owned::normal(dtype, {2, 8}, "y"), rstd(dtype, {2});
    x.fill(0);
    rms_norm_forward(context(dtype), x, 1, 1.1920929e-7, y, rstd);
    for (double v : y.values()) EXPECT_EQ(v, 0);
    EXPECT_TRUE(std::isfinite(rstd.at(0)));
  }
}

TEST(RmsNorm, RefusesShapesThatDisagree) {
  Owned x(DType::f32, {2, 8}), y(DType::f32, {2, 7}), rstd(DType::f32, {2}), short_rstd(DType::f32, {1});
  EXPECT_THROW(rms_norm_forward(context(DType::f32), x, 1, 0, y, rstd), InvalidArgument);
  EXPECT_THROW(rms_norm_forward(context(DType::f32), x, 1, 0, x, short_rstd), InvalidArgument);
}

}  // namespace
}  // namespace bg
