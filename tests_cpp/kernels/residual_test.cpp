#include "kernels/residual.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"

namespace bg {
namespace {

OpCase mix(int64_t N, int64_t D) {
  OpCase c;
  c.name = words("residual_mix", N, D);
  c.inputs = {{"x", {N, D}}, {"x0", {N, D}, Write::add}, parameter("mix", {2, D})};
  c.outputs = {{{N, D}}};
  c.forward = [](OpRun& r) { residual_mix_forward(r.ctx, r.in[0], r.in[1], r.in[2], r.out[0]); };
  c.backward = [](OpRun& r) {
    residual_mix_backward(r.ctx, r.in[0], r.in[1], r.in[2], r.dout[0], r.din[0], r.din[1], r.din[2]);
  };
  c.formula = [=](const Lists& in) {
    std::vector<double> y;
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < D; ++i) y.push_back(in[2][i] * in[0][n * D + i] + in[2][D + i] * in[1][n * D + i]);
    return Lists{y};
  };
  return c;
}

OpCase scaled(int64_t N, int64_t D) {
  OpCase c;
  c.name = words("scaled_add", N, D);
  c.inputs = {{"a", {N, D}}, parameter("scale", {D})};
  c.outputs = {{{N, D}}};
  c.forward = [=](OpRun& r) { scaled_add_forward(r.ctx, r.constant({N, D}, "stream"), r.in[0], r.in[1], r.out[0]); };
  c.backward = [](OpRun& r) { scaled_add_backward(r.ctx, r.in[0], r.in[1], r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> y = Owned::normal(DType::f64, {N, D}, "stream").values();
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < D; ++i) y[n * D + i] += in[1][i] * in[0][n * D + i];
    return Lists{y};
  };
  return c;
}

OpCase scalar(int64_t N, int64_t D) {
  OpCase c;
  c.name = words("scalar_add", N, D);
  c.inputs = {{"a", {N, D}}, parameter("s", {})};
  c.outputs = {{{N, D}}};
  c.forward = [=](OpRun& r) {
    copy_tensor(r.ctx, r.constant({N, D}, "stream"), r.out[0]);
    scalar_add_forward(r.ctx, r.in[0], r.in[1], r.out[0]);
  };
  c.backward = [](OpRun& r) { scalar_add_backward(r.ctx, r.in[0], r.in[1], r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> y = Owned::normal(DType::f64, {N, D}, "stream").values();
    for (size_t i = 0; i < y.size(); ++i) y[i] += in[1][0] * in[0][i];
    return Lists{y};
  };
  return c;
}

// Both outputs feed on: `mixed` is the stream, u what a layer reads.
OpCase mix_norm(int64_t N, int64_t D) {
  const double scale = 0.7, eps = 0.1;
  OpCase c;
  c.name = words("mix_norm", N, D);
  c.inputs = {{"x", {N, D}, Write::set, 1, 0.5}, {"x0", {N, D}, Write::add}, parameter("mix", {2, D}, 0.3, 1)};
  c.outputs = {{{N, D}}, {{N, D}}};
  c.forward = [=](OpRun& r) {
    mix_norm_forward(r.ctx, r.in[0], r.in[1], r.in[2], scale, eps, r.out[0], r.out[1], r.keep_full({N}));
  };
  c.backward = [=](OpRun& r) {
    copy_tensor(r.ctx, r.dout[0], r.din[0]);
    mix_norm_backward(r.ctx, r.in[0], r.in[1], r.in[2], r.out[1], r.kept[0], scale, r.dout[1], r.din[0], r.din[1],
                      r.din[2]);
  };
  c.formula = [=](const Lists& in) {
    std::vector<double> y, u;
    for (int64_t n = 0; n < N; ++n) {
      double square = 0;
      for (int64_t i = 0; i < D; ++i) {
        y.push_back(in[2][i] * in[0][n * D + i] + in[2][D + i] * in[1][n * D + i]);
        square += y.back() * y.back();
      }
      for (int64_t i = 0; i < D; ++i)
        u.push_back(y[n * D + i] * scale / std::sqrt(square / static_cast<double>(D) + eps));
    }
    return Lists{y, u};
  };
  return c;
}

OpCase scale_rows(int64_t O, int64_t K) {
  OpCase c;
  c.name = words("scale_rows", O, K);
  c.inputs = {parameter("w", {O, K}), parameter("scale", {O}, 0.3, 1)};
  c.outputs = {{{O, K}}};
  c.forward = [](OpRun& r) { scale_rows_forward(r.ctx, r.in[0], r.in[1], r.out[0]); };
  c.backward = [=](OpRun& r) {
    // The gradient of a product's operand is a parameter's: kept in full.
    const Tensor dout = r.keep_full({O, K});
    r.convert(r.dout[0], dout);
    scale_rows_backward(r.ctx, r.in[0], r.in[1], dout, r.din[0], r.din[1]);
  };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t o = 0; o < O; ++o)
      for (int64_t k = 0; k < K; ++k) out.push_back(in[1][o] * in[0][o * K + k]);
    return Lists{out};
  };
  return c;
}

// y += a; what y held before is no input.
OpCase accumulated(int64_t N, int64_t D) {
  OpCase c;
  c.name = words("accumulate", N, D);
  c.inputs = {{"a", {N, D}}};
  c.outputs = {{{N, D}}, {{N, D}}};
  c.forward = [=](OpRun& r) {
    copy_tensor(r.ctx, r.constant({N, D}, "before"), r.out[0]);
    accumulate(r.ctx, r.in[0], r.out[0]);
    fill_zero(r.ctx, r.out[1]);
  };
  c.backward = [](OpRun& r) {
    fill_zero(r.ctx, r.din[0]);
    accumulate(r.ctx, r.dout[0], r.din[0]);
  };
  return c;
}

template <class Make>
std::vector<OpCase> small(Make make) {
  return {make(1, 1), make(1, 17), make(3, 3), make(41, 1), make(21, 17), make(150, 70)};
}
template <class Make>
std::vector<OpCase> large(Make make) {
  return {make(150, 512), make(500, 65)};
}

template <class Make>
std::vector<OpCase> cuda(Make make) {
  return {make(1031, 512), make(2000, 5), make(1000, 12), make(515, 100), make(301, 768), make(64, 2048), make(1, 256)};
}

BG_PROVE_OP(ResidualMix, small(mix), large(mix))
BG_PROVE_OP(MixNorm, small(mix_norm), large(mix_norm))
BG_PROVE_OP(ScaleRows, small(scale_rows), large(scale_rows))
BG_PROVE_CUDA(ResidualMix, cuda(mix))
BG_PROVE_CUDA(MixNorm, cuda(mix_norm))
BG_PROVE_CUDA(ScaleRows, cuda(scale_rows))
BG_PROVE_CUDA(ScaledAdd, cuda(scaled))
BG_PROVE_CUDA(ScalarAdd, cuda(scalar))
BG_PROVE_CUDA(Accumulate, cuda(accumulated))
BG_PROVE_OP(ScaledAdd, small(scaled), large(scaled))
BG_PROVE_OP(ScalarAdd, small(scalar), large(scalar))

TEST(Residual, GradientsMayReplaceWhatTheyCameFrom) {
  const Ctx ctx = context(DType::f64);
  const Shape s{5, 17};
  Owned x = Owned::normal(DType::f64, s, "x"), x0 = Owned::normal(DType::f64, s, "x0"),
        m = Owned::normal(DType::f64, {2, 17}, "mix"), dy = Owned::normal(DType::f64, s, "dy"),
        same = Owned::normal(DType::f64, s, "dy"), dx(DType::f64, s), dx0(DType::f64, s), dm(DType::f64, {2, 17}),
        dx0_too(DType::f64, s), dm_too(DType::f64, {2, 17});
  residual_mix_backward(ctx, x, x0, m, dy, dx, dx0, dm);
  residual_mix_backward(ctx, x, x0, m, same, same, dx0_too, dm_too);
  EXPECT_EQ(same.bits(), dx.bits());
  EXPECT_EQ(dx0_too.bits(), dx0.bits());
  EXPECT_EQ(dm_too.bits(), dm.bits());
}

TEST(Residual, AddsIntoTheStreamInPlace) {
  const Ctx ctx = context(DType::f32);
  const Shape s{5, 17};
  Owned x = Owned::normal(DType::f32, s, "x"), a = Owned::normal(DType::f32, s, "a"),
        scale = Owned::normal(DType::f32, {17}, "s"), y(DType::f32, s);
  scaled_add_forward(ctx, x, a, scale, y);
  scaled_add_forward(ctx, x, a, scale, x);
  EXPECT_EQ(x.bits(), y.bits());
}

TEST(Residual, AccumulateAddsAndFillZeroClears) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Ctx ctx = context(dtype, 3);
    for (int64_t n : {1, 17, 20000}) {
      Owned a = Owned::normal(dtype, {n}, "a"), y = Owned::normal(dtype, {n}, "y");
      const std::vector<double> before = y.values();
      accumulate(ctx, a, y);
      for (int64_t i = 0; i < n; ++i)
        ASSERT_EQ(y.at(i), dtype == DType::f32 ? static_cast<float>(before[i]) + static_cast<float>(a.at(i))
                                               : before[i] + a.at(i));
      fill_zero(ctx, y);
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y.at(i), 0);
    }
  }
}

}  // namespace
}  // namespace bg
