#include "optim/schedule.h"

#include <algorithm>
#include <cmath>

namespace bg {
namespace {

// floor(share * n), where the product of a decimal share and n may lie a rounding error below the integer meant.
int64_t part_of(double share, int64_t n) {
  return static_cast<int64_t>(std::floor(share * static_cast<double>(n) * (1 + 1e-12)));
}

}  // namespace

int64_t equivalent_step(const Config& config, int64_t step, const Clock& clock) {
  if (config.train_budget_s <= 0) return step;
  const double share = std::clamp(clock.elapsed_s / config.train_budget_s, 0.0, 1.0);
  return std::max(step, part_of(share, config.iterations));
}

double lr_factor(const Config& config, int64_t step, const Clock& clock) {
  if (config.warmdown_iters == 0) return 1;
  const double warmdown = static_cast<double>(config.warmdown_iters);
  double left = static_cast<double>(config.iterations - step);
  if (config.train_budget_s > 0 && clock.mean_step_s > 0) {
    const double spare_s = config.train_budget_s - clock.elapsed_s - clock.predicted_step_s;
    left = std::min(left, 1 + std::max(0.0, spare_s / clock.mean_step_s));
  }
  return std::clamp(left / warmdown, 0.0, 1.0);
}

double muon_momentum(const Config& config, int64_t step) {
  if (step >= config.muon_momentum_warmup_steps) return config.muon_momentum;
  const double share = static_cast<double>(step) / static_cast<double>(config.muon_momentum_warmup_steps);
  return (1 - share) * config.muon_momentum_warmup_start + share * config.muon_momentum;
}

double jepa_lambda(const Config& config, int64_t step, const Clock& clock) {
  if (config.jepa_chunk_size == 0) return 0;
  const int64_t n = equivalent_step(config, step, clock);
  const int64_t first = part_of(config.jepa_phase1_frac, config.iterations);
  const int64_t last = part_of(config.jepa_phase1_frac + config.jepa_phase2_frac, config.iterations);
  if (n < first || n >= last) return 0;
  return config.jepa_lambda_max * static_cast<double>(n - first) / static_cast<double>(last - first);
}

bool revisits(const Config& config, int64_t step, const Clock& clock) {
  return equivalent_step(config, step, clock) >= part_of(config.visits_start_frac, config.iterations);
}

bool takes_snapshot(const Config& config, int64_t step, const Clock& clock) {
  if (config.swa_last_frac <= 0 || (step + 1) % config.swa_every != 0) return false;
  return equivalent_step(config, step, clock) >= part_of(1 - config.swa_last_frac, config.iterations);
}

bool run_is_over(const Config& config, int64_t step, const Clock& clock) {
  if (step >= config.iterations) return true;
  if (config.train_budget_s <= 0 || step == 0) return false;
  return clock.elapsed_s + clock.predicted_step_s > config.train_budget_s;
}

void StepTimes::add(double step_s) {
  recent_[static_cast<size_t>(count_++ % kRecent)] = step_s;
}

double StepTimes::longest_s() const {
  return *std::max_element(recent_.begin(), recent_.end());
}

double StepTimes::predicted_s() const {
  return count_ == 0 ? 0 : 1.25 * longest_s() + 0.02;
}

}  // namespace bg
