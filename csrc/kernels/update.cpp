#include "kernels/update.h"

namespace bg {
namespace {

// All given tensors that are not empty agree with the first one.
void check_alike(std::initializer_list<Tensor> tensors) {
  const Tensor& first = *tensors.begin();
  for (const Tensor& t : tensors) {
    if (!t) continue;
    BG_CHECK(t.is_contiguous(), "an update needs contiguous ranges, got shape", t.shape().str());
    BG_CHECK(t.numel() == first.numel(), "ranges of an update differ in length:", first.numel(), t.numel());
    BG_CHECK(t.dtype() == first.dtype() && t.device() == first.device(),
             "ranges of an update differ:", name_of(first.dtype()), name_of(t.dtype()));
  }
}

}  // namespace

double sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial) {
  check_alike({x});
  BG_CHECK(static_cast<int64_t>(partial.size()) >= update_blocks(x.numel()), "scratch too short:", partial.size());
  double sum = 0;
  BG_DISPATCH(x.device(), sum_of_squares(ctx, x, partial));
  for (int64_t i = 0; i < update_blocks(x.numel()); ++i) sum += partial[static_cast<size_t>(i)];
  return sum;
}

void adam_step(const Ctx& ctx, const AdamStep& step, Tensor p, Tensor g, Tensor m, Tensor v, Tensor average) {
  if (p.numel() == 0) return;
  check_alike({p, g, m, v, average});
  BG_DISPATCH(p.device(), adam_step(ctx, step, p, g, m, v, average));
}

void muon_momentum_step(const Ctx& ctx, double mu, double grad_scale, Tensor g, Tensor buf, Tensor u) {
  check_alike({g, buf, u});
  if (g.numel() == 0) return;
  BG_DISPATCH(g.device(), muon_momentum_step(ctx, mu, grad_scale, g, buf, u));
}

void decayed_step(const Ctx& ctx, double keep, double lr, Tensor o, Tensor p, double average_weight, Tensor average) {
  check_alike({p, o, average});
  if (p.numel() == 0) return;
  BG_DISPATCH(p.device(), decayed_step(ctx, keep, lr, o, p, average_weight, average));
}

void average_step(const Ctx& ctx, double weight, Tensor x, Tensor average) {
  check_alike({x, average});
  if (x.numel() == 0) return;
  BG_DISPATCH(x.device(), average_step(ctx, weight, x, average));
}

}  // namespace bg
