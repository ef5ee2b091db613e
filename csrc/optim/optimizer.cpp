#include "optim/optimizer.h"

#include <cmath>

#include "optim/clip.h"

namespace bg {

GroupRates rates_of(const Config& config, Group group) {
  switch (group) {
    case Group::matrix:
      return {config.matrix_lr, config.muon_wd};
    case Group::table:
      return {config.tied_embed_lr, config.adam_wd};
    case Group::head:
      return {config.head_lr, config.adam_wd};
    case Group::scalar:
      return {config.scalar_lr, config.adam_wd};
    case Group::jepa:
      return {config.jepa_lr, 0};
  }
  return {};
}

AdamStep adam_step_of(const Config& config, const GroupRates& rates, int64_t step, double lr_factor) {
  AdamStep s;
  s.lr = rates.lr * lr_factor;
  s.beta1 = config.beta1, s.beta2 = config.beta2, s.eps = config.adam_eps;
  s.keep = 1 - s.lr * rates.weight_decay;
  s.correction1 = 1 - std::pow(config.beta1, static_cast<double>(step + 1));
  s.correction2 = 1 - std::pow(config.beta2, static_cast<double>(step + 1));
  return s;
}

Optimizer::Optimizer(const Config& config, const Ctx& ctx, ParamTable& params, const Averages* averages, Comm* comm)
    : config_(config), ctx_(ctx), params_(params) {
  BG_CHECK(params.range(Group::matrix).first == 0, "matrices must stand first in the arenas");
  for (Group group : {Group::table, Group::head, Group::scalar, Group::jepa})
    for (const AveragedRange& r : averaged_ranges(params, group))
      adam_.push_back({r.lo, r.hi, r.averaged, rates_of(config, group)});
  const size_t element = size_of(ctx.full_dtype());
  first_ = Buffer(static_cast<size_t>(params.arena_numel()) * element, ctx.device);
  second_ = Buffer(static_cast<size_t>(params.arena_numel() - second_offset()) * element, ctx.device);
  partial_.resize(static_cast<size_t>(update_blocks(params.arena_numel())));
  if (ctx.device == Device::cpu) {
    muon_.emplace(ctx, params, comm);
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
  const GroupRates matrix = rates_of(config_, Group::matrix);
  muon_->step({matrix.lr * lr_factor, matrix.weight_decay, momentum, scale, weight, config_.newton_schulz_steps},
              params_, first, ema);
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
