#include "optim/average.h"

#include <algorithm>

#include "kernels/update.h"

namespace bg {

Averages::Averages(const Config& config, const Ctx& ctx, const ParamTable& params)
    : ctx_(ctx), ema_weight_(1 - config.ema_decay), numel_(params.arena_numel()) {
  const size_t size_bytes = static_cast<size_t>(numel_) * size_of(ctx.full_dtype());
  if (config.ema_decay > 0) ema_ = Buffer(size_bytes, ctx.device);
  if (config.swa_last_frac > 0) swa_ = Buffer(size_bytes, ctx.device);
  for (const GroupRow& row : kGroups)
    for (const AveragedRange& r : averaged_ranges(params, row.group))
      if (r.averaged) averaged_.emplace_back(r.lo, r.hi);
  start(params);
}

Tensor Averages::ema() const {
  return ema_.data() ? Tensor(ema_.data(), {numel_}, ctx_.full_dtype(), ctx_.device) : Tensor();
}
Tensor Averages::swa() const {
  return swa_.data() ? Tensor(swa_.data(), {numel_}, ctx_.full_dtype(), ctx_.device) : Tensor();
}

void Averages::start(const ParamTable& params) {
  snapshots_ = 0;
  if (swa_.data()) clear_bytes(ctx_, ctx_.device, swa_.data(), swa_.size_bytes());
  if (!ema_.data()) return;
  for (const ParamSpec& spec : params.specs()) {
    if (spec.averaging == Averaging::off) continue;
    const Tensor from = ParamTable::view(spec, params.values());
    copy_bytes(ctx_, ParamTable::view(spec, ema()).data(), ctx_.device, from.data(), ctx_.device, from.size_bytes());
  }
}

void Averages::snapshot(const ParamTable& params) {
  BG_CHECK(swa_.data() != nullptr, "option swa_last_frac = 0 keeps no snapshots");
  ++snapshots_;
  for (const auto& [lo, hi] : averaged_)
    average_step(ctx_, 1.0 / static_cast<double>(snapshots_), params.values().slice(0, lo, hi), swa().slice(0, lo, hi));
}

std::vector<AveragedRange> averaged_ranges(const ParamTable& params, Group group) {
  std::vector<const ParamSpec*> members;
  for (const ParamSpec& spec : params.specs())
    if (spec.group == group) members.push_back(&spec);
  std::sort(members.begin(), members.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  std::vector<AveragedRange> out;
  for (const ParamSpec* spec : members) {
    const bool averaged = spec->averaging == Averaging::on;
    if (out.empty() || out.back().averaged != averaged) out.push_back({spec->offset, spec->offset, averaged});
    out.back().hi = spec->offset + spec->shape.numel();
  }
  return out;
}

}  // namespace bg
