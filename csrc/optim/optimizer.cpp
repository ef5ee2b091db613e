#include "optim/optimizer.h"

#include <algorithm>
#include <cmath>

#include "optim/clip.h"

namespace bg {

AdamStep adam_step_of(const Config& config, const GroupRates& rates, int64_t step, double lr_factor) {
  AdamStep s;
  s.lr = rates.lr * lr_factor;
  s.beta1 = config.beta1, s.beta2 = config.beta2, s.eps = config.adam_eps;
  s.keep = 1 - s.lr * rates.weight_decay;
  s.correction1 = 1 - std::pow(config.beta1, static_cast<double>(step + 1));
  s.correction2 = 1 - std::pow(config.beta2, static_cast<double>(step + 1));
  return s;
}

void check_all_are_moved(const ParamTable& params, std::vector<std::pair<int64_t, int64_t>> moved) {
  std::sort(moved.begin(), moved.end());
  for (size_t i = 1; i < moved.size(); ++i)
    BG_CHECK(moved[i - 1].second <= moved[i].first, "element", moved[i].first, "of the parameters is moved twice");
  for (const ParamSpec& spec : params.specs()) {
    const int64_t first = spec.offset, last = first + spec.shape.numel();
    int64_t elements = 0;
    for (const auto& [lo, hi] : moved) elements += std::max<int64_t>(0, std::min(hi, last) - std::max(lo, first));
    BG_CHECK(elements == last - first, "no optimiser moves", last - first - elements, "elements of", spec.name,
             "of group", name_of(spec.group));
  }
}

Optimizer::Optimizer(const Config& config, const Ctx& ctx, ParamTable& params, const Averages* averages, Comm* comm)
    : config_(config), ctx_(ctx), params_(params) {
  for (const GroupRow& row : kGroups) {
    if (row.mover != Mover::adam) continue;
    for (const AveragedRange& r : averaged_ranges(params, row.group))
      adam_.push_back({r.lo, r.hi, r.averaged, rates_of(config, row.group)});
  }
  const size_t element = size_of(ctx.full_dtype());
  first_ = Buffer(static_cast<size_t>(params.arena_numel()) * element, ctx.device);
  second_ = Buffer(static_cast<size_t>(params.arena_numel() - second_offset()) * element, ctx.device);
  partial_.resize(static_cast<size_t>(update_blocks(params.arena_numel())));
  if (ctx.device == Device::cpu) {
    muon_.emplace(config, ctx, params, comm);
    std::vector<std::pair<int64_t, int64_t>> moved = muon_->moved();
    for (const AdamRange& r : adam_) moved.emplace_back(r.lo, r.hi);
    check_all_are_moved(params, moved);
    return;
  }
  if (averages != nullptr) ema_ = averages->ema();
  fused_ = make_fused_step(config, ctx, params, first_moments(), second_moments(), ema_,
                           averages != nullptr ? averages->ema_weight() : 0, comm);
}

double Optimizer::gradient_norm(bool refuse) {
  return refuse ? bg::gradient_norm(ctx_, params_, partial_)
                : std::sqrt(sum_of_squares(ctx_, params_.grads(), partial_));
}

void Optimizer::step(int64_t step, double norm, double lr_factor, double momentum, const Averages& averages) {
  if (fused_ != nullptr) {
    BG_CHECK(averages.ema().data() == ema_.data(), "on CUDA an optimiser moves the averages it was made with");
    fused_->prepare(step, lr_factor, momentum);
    fused_->enqueue(Tensor());
    if (!std::isfinite(fused_->norm())) refuse_gradient(ctx_, params_);
    return;
  }
  const double scale = clip_factor(norm, config_.grad_clip_norm), weight = averages.ema_weight();
  const Tensor ema = averages.ema(), first = first_moments(), second = second_moments();
  muon_->step({lr_factor, momentum, scale, weight, config_.newton_schulz_steps}, params_, first, ema);
  for (const AdamRange& r : adam_) {
    AdamStep s = adam_step_of(config_, r.rates, step, lr_factor);
    s.grad_scale = scale, s.average_weight = weight;
    const auto part = [&](Tensor arena, int64_t offset) { return arena.slice(0, r.lo - offset, r.hi - offset); };
    adam_step(ctx_, s, part(params_.values(), 0), part(params_.grads(), 0), part(first, 0),
              part(second, second_offset()), r.averaged && ema ? part(ema, 0) : Tensor());
  }
}

Tensor Optimizer::first_moments() const {
  return Tensor(first_.data(), {params_.arena_numel()}, ctx_.full_dtype(), ctx_.device);
}
Tensor Optimizer::second_moments() const {
  return Tensor(second_.data(), {params_.arena_numel() - second_offset()}, ctx_.full_dtype(), ctx_.device);
}

}  // namespace bg
