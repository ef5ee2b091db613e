#include "kernels/softmax_xent.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/latent_loss.h"
#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

// Raw scores -> cap -> nats, summed.
OpCase xent(int64_t N, int64_t V, double cap, double size, bool gaps) {
  const auto targets = [=] {
    Owned t = Owned::random_ids({N}, 0, V - 1, "targets");
    for (int64_t n = 0; gaps && n < N; n += 3) t.view().ptr<int32_t>()[n] = -1;
    return t;
  };
  OpCase c;
  c.name = words("softmax_xent", N, V, cap, size, gaps);
  c.inputs = {{"raw", {N, V}, Write::set, size, 0, true}};
  c.outputs = {{{}, Kept::f64}};
  c.forward = [=](OpRun& r) {
    const Tensor logits = r.keep_full({N, V}), nll = r.keep({N}, DType::f64), lse = r.keep_full({N});
    copy_tensor(r.ctx, r.in[0], logits);
    softcap(r.ctx, cap, logits);
    softmax_xent_forward(r.ctx, logits, r.give(targets()), nll, lse);
    sum_f64(r.ctx, nll, r.out[0]);
  };
  c.backward = [=](OpRun& r) {
    const bool in_place = r.ctx.dtype == r.ctx.full_dtype() && N % 2 == 0;
    const Tensor dlogits = in_place ? r.din[0] : r.keep({N, V});
    if (in_place) copy_tensor(r.ctx, r.kept[0], dlogits);
    const Tensor logits = in_place ? dlogits : r.kept[0].view();
    softmax_xent_backward(r.ctx, logits, r.give(targets()), r.kept[2], cap, r.scale(0), dlogits);
    if (!in_place) r.convert(dlogits, r.din[0]);
  };
  c.formula = [=](const Lists& in) {
    const Owned t = targets();
    double sum = 0;
    for (int64_t n = 0; n < N; ++n) {
      const int32_t target = t.view().ptr<int32_t>()[n];
      if (target < 0) continue;
      const auto logit = [&](int64_t v) {
        const double x = in[0][n * V + v];
        return cap > 0 ? cap * std::tanh(x / cap) : x;
      };
      double total = 0;
      for (int64_t v = 0; v < V; ++v) total += std::exp(logit(v) - logit(target));
      sum += std::log(total);
    }
    return Lists{{sum}};
  };
  return c;
}

std::vector<OpCase> small() {
  return {xent(1, 1, 0, 1, false), xent(1, 2, 30, 1, false), xent(4, 3, 2, 3, true), xent(7, 17, 0, 3, true),
          xent(21, 5, 30, 20, false)};
}
std::vector<OpCase> large() {
  return {xent(300, 260, 30, 5, true), xent(257, 256, 0, 3, false)};
}

std::vector<OpCase> cuda() {
  return {xent(1200, 260, 30, 5, true), xent(1201, 260, 30, 5, false), xent(1000, 256, 0, 3, true),
          xent(500, 5, 30, 5, false),   xent(333, 1000, 30, 5, true),  xent(257, 2049, 0, 3, false)};
}

BG_PROVE_OP(SoftmaxXent, small(), large())
BG_PROVE_CUDA(SoftmaxXent, cuda())

TEST(SoftmaxXent, UniformLogitsGiveLnV) {
  for (DType dtype : {DType::f32, DType::f64})
    for (int64_t V : {1, 2, 256, 260}) {
      Owned logits(dtype, {3, V}), nll(DType::f64, {3}), lse(dtype, {3});
      logits.fill(0);
      softmax_xent_forward(context(dtype), logits, Owned::ids({3}, {0, -1, static_cast<int32_t>(V - 1)}), nll, lse);
      EXPECT_NEAR(nll.at(0), std::log(static_cast<double>(V)), tolerance::kExact * 10);
      EXPECT_EQ(nll.at(1), 0);
      EXPECT_EQ(nll.at(2), nll.at(0));
    }
}

TEST(SoftmaxXent, ExtremeLogitsGiveNeitherNaNNorInfinity) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Ctx ctx = context(dtype);
    Owned logits(dtype, {4, 3}), nll(DType::f64, {4}), lse(dtype, {4});
    const double rows[] = {1e4, -1e4, 0, -1e4, -1e4, -1e4, 1e4, 1e4, 1e4, 1e4, -1e4, -1e4};
    for (int64_t i = 0; i < 12; ++i) logits.set(i, rows[i]);
    const Owned targets = Owned::ids({4}, {1, 0, 2, 0});
    softmax_xent_forward(ctx, logits, targets, nll, lse);
    EXPECT_NEAR(nll.at(0), 2e4, 1e-9);
    // The logarithm of a row is kept to the dtype's precision, 1e4 times its epsilon.
    EXPECT_NEAR(nll.at(1), std::log(3.0), 1e-9);
    EXPECT_NEAR(nll.at(2), std::log(3.0), 1e-9);
    EXPECT_EQ(nll.at(3), 0);
    softmax_xent_backward(ctx, logits, targets, lse, 0, 1, logits);
    const double third = 1.0 / 3, loose = dtype == DType::f32 ? 1e-3 : 1e-9;
    const double expected[] = {1, -1, 0, third - 1, third, third, third, third, third - 1, 0, 0, 0};
    for (int64_t i = 0; i < 12; ++i) EXPECT_NEAR(logits.at(i), expected[i], loose) << i;
  }
}

TEST(Softcap, InFloat32IsAccurateFromTinyToHuge) {
  std::vector<float> points = {0.0f, 1e-30f, 1e-6f, 7.49f, 7.5f, 7.51f, 299.9f, 300.1f, 1e4f, 1e30f};
  for (float x = 1e-4f; x < 400; x *= 1.003f) points.push_back(x);
  const int64_t n = static_cast<int64_t>(points.size());
  Owned x(DType::f32, {2, n});
  for (int64_t i = 0; i < n; ++i) {
    x.set(i, points[i]);
    x.set(n + i, -points[i]);
  }
  const std::vector<double> before = x.values();
  softcap(context(DType::f32), 30, x);
  for (int64_t i = 0; i < 2 * n; ++i) {
    const double expected = 30 * std::tanh(before[i] / 30);
    ASSERT_NEAR(x.at(i), expected, tolerance::kElementaryFloat32 * std::abs(expected)) << "x = " << before[i];
    ASSERT_EQ(x.at(i), -x.at((i + n) % (2 * n))) << "odd function";
  }
}

TEST(Softcap, ZeroLeavesLogitsAlone) {
  Owned x = Owned::normal(DType::f32, {3, 5}, "x", 1000), same = Owned::normal(DType::f32, {3, 5}, "x", 1000);
  softcap(context(DType::f32), 0, x);
  EXPECT_EQ(x.bits(), same.bits());
}

}  // namespace
}  // namespace bg
