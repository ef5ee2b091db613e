// What changes from step to step: step size, Muon's momentum, the weight of the JEPA losses, snapshots and the end of
// the run, as pure functions of (config, step, clock). Steps count from 0.
#pragma once

#include <array>
#include <cstdint>

#include "base/config.h"

namespace bg {

/// What is known of time when a step begins. Only runs with train_budget_s > 0 look at it.
struct Clock {
  double elapsed_s = 0;         // since the run began, pauses between processes left out
  double mean_step_s = 0;       // elapsed time per step after the first; 0 before two have ended
  double predicted_step_s = 0;  // the next step is unlikely to take longer than this; 0 when unknown
};

/// How far a run has come, as a step number 0..N: the step itself or, under a wall-clock budget, the same share of the
/// iterations as of the budget, whichever is more.
int64_t equivalent_step(const Config& config, int64_t step, const Clock& clock);

/// Step-size factor, in (0, 1]. By steps: 1 for n < N - W, else (N - n) / W. By wall clock: min(1, n_left / W), where
/// n_left counts the steps that still fit: 1 for the last one. The smaller of the two when both limits exist; the last
/// step runs at 1 / W either way. W = warmdown_iters = 0 means no fall.
double lr_factor(const Config& config, int64_t step, const Clock& clock);

/// lerp(muon_momentum_warmup_start, muon_momentum, min(n / warm-up steps, 1)).
double muon_momentum(const Config& config, int64_t step);

/// Weight of the JEPA losses: 0 for n < floor(phase1 N), then linear from 0 to jepa_lambda_max up to
/// n = floor((phase1 + phase2) N), then 0; n is the equivalent step.
double jepa_lambda(const Config& config, int64_t step, const Clock& clock);

/// Whether step n visits blocks as option visits says: from the equivalent step visits_start_frac N on.
bool revisits(const Config& config, int64_t step, const Clock& clock);

/// Whether the weights after step n are an SWA snapshot: n + 1 is a multiple of swa_every and n lies in the last
/// swa_last_frac of the run.
bool takes_snapshot(const Config& config, int64_t step, const Clock& clock);

/// Whether step n must not begin: all iterations are done, or its predicted end lies past the budget. The first step of
/// a run always begins, since nothing is known of its length.
bool run_is_over(const Config& config, int64_t step, const Clock& clock);

/// Watches step times and predicts the next one.
class StepTimes {
 public:
  void add(double step_s);
  /// The longest of the last 16 steps; 0 before the first.
  double longest_s() const;
  /// 1.25 times that and 20 ms (for what else the machine does); 0 before the first.
  double predicted_s() const;

 private:
  static constexpr int kRecent = 16;
  std::array<double, kRecent> recent_{};
  int64_t count_ = 0;
};

}  // namespace bg
