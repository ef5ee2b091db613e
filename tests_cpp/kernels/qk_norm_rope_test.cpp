#include "kernels/qk_norm_rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

struct Dims {
  int64_t B, T, H, G, d, r;
  int64_t train_len = 4096;
};

OpCase qk_norm_rope(Dims s) {
  const double base = 100, eps = 1e-3;
  const int64_t W = (s.H + 2 * s.G) * s.d;
  OpCase c;
  c.name = words("qk_norm_rope", s.B, s.T, s.H, s.G, s.d, s.r, s.train_len);
  c.inputs = {{"qkv", {s.B, s.T, W}}, parameter("gain", {s.H}, 0.5, 1.5)};
  c.outputs = {{{s.B, s.T, s.H, s.d}}, {{s.B, s.T, s.G, s.d}}};
  c.forward = [=](OpRun& r) {
    const Tensor rope = r.keep_full({s.T, s.r});
    rope_table(r.ctx, base, s.train_len, rope);
    qk_norm_rope_forward(r.ctx, r.in[0], r.in[1], rope, eps, r.out[0], r.out[1], r.keep_full({s.B, s.T, s.H + s.G}));
  };
  c.backward = [=](OpRun& r) {
    // The values' columns belong to somebody else: what stands there must stay. Zero is their gradient here.
    clear_bytes(r.ctx, r.din[0].device(), r.din[0].data(), r.din[0].size_bytes());
    qk_norm_rope_backward(r.ctx, r.in[0], r.in[1], r.kept[0], r.kept[1], r.dout[0], r.dout[1], r.din[0], r.din[1]);
  };
  c.formula = [=](const Lists& in) {
    Lists out(2);
    const double r = static_cast<double>(s.r);
    const double stretched = s.T > s.train_len ? base * std::pow(double(s.T) / double(s.train_len), r / (r - 2)) : base;
    for (int64_t n = 0; n < s.B * s.T; ++n)
      for (int64_t h = 0; h < s.H + s.G; ++h) {
        std::vector<double> x(in[0].begin() + n * W + h * s.d, in[0].begin() + n * W + (h + 1) * s.d);
        double square = 0;
        for (double v : x) square += v * v;
        for (double& v : x) v /= std::sqrt(square / static_cast<double>(s.d) + eps);
        std::vector<double> y = x;
        for (int64_t j = 0; j < s.r / 2; ++j) {
          const double angle = static_cast<double>(n % s.T) * std::pow(stretched, -2.0 * static_cast<double>(j) / r);
          const double a = x[j], b = x[s.r / 2 + j];
          y[j] = a * std::cos(angle) + b * std::sin(angle);
          y[s.r / 2 + j] = -a * std::sin(angle) + b * std::cos(angle);
        }
        for (double v : y) out[h < s.H ? 0 : 1].push_back(h < s.H ? in[1][h] * v : v);
      }
    return out;
  };
  return c;
}

std::vector<OpCase> small() {
  return {qk_norm_rope({1, 1, 1, 1, 2, 2}),  qk_norm_rope({3, 1, 2, 1, 5, 4}),    qk_norm_rope({1, 7, 4, 2, 6, 6}),
          qk_norm_rope({2, 5, 3, 3, 17, 4}), qk_norm_rope({1, 9, 2, 1, 8, 4, 4}), qk_norm_rope({2, 11, 6, 2, 8, 8, 5})};
}
std::vector<OpCase> large() {
  return {qk_norm_rope({2, 100, 8, 4, 64, 16}), qk_norm_rope({1, 130, 8, 8, 64, 64})};
}

std::vector<OpCase> cuda() {
  return {qk_norm_rope({2, 700, 8, 4, 64, 16}),     qk_norm_rope({2, 300, 8, 8, 64, 64}),
          qk_norm_rope({1, 260, 4, 4, 128, 128}),   qk_norm_rope({3, 211, 6, 2, 12, 4}),
          qk_norm_rope({1, 301, 4, 1, 100, 20}),    qk_norm_rope({2, 99, 3, 3, 5, 2}),
          qk_norm_rope({1, 70, 12, 12, 64, 16, 64})};
}

BG_PROVE_OP(QkNormRope, small(), large())
BG_PROVE_CUDA(QkNormRope, cuda())

TEST(RopeTable, TurnsByOneRadianAtTheFirstPairAndSlowerAfter) {
  Owned table(DType::f64, {3, 4});
  rope_table(context(DType::f64), 10000, 4096, table);
  EXPECT_NEAR(table.at(4), std::cos(1.0), tolerance::kExact);  // t = 1, pair 0
  EXPECT_NEAR(table.at(4 + 2), std::sin(1.0), tolerance::kExact);
  EXPECT_NEAR(table.at(8 + 1), std::cos(0.02), tolerance::kExact);  // t = 2, pair 1: 10000^(-2/4)
  EXPECT_NEAR(table.at(8 + 3), std::sin(0.02), tolerance::kExact);
}

TEST(RopeTable, RefusesToStretchASinglePair) {
  Owned table(DType::f64, {5, 2});
  EXPECT_NO_THROW(rope_table(context(DType::f64), 100, 5, table));
  EXPECT_THROW(rope_table(context(DType::f64), 100, 4, table), InvalidArgument);
}

}  // namespace
}  // namespace bg
