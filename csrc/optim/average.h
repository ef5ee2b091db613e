// The averages of the weights that a run keeps: the running one (EMA) and the mean of late snapshots (SWA).
//
//   ema += (1 - decay) (p - ema), from the first weights on, after every step, not debiased
//   swa  = mean of the snapshots taken so far
// Tensors declared with Averaging::off are left out: their views in both arenas stay zero.
#pragma once

#include <utility>
#include <vector>

#include "base/config.h"
#include "base/ctx.h"
#include "tensor/buffer.h"
#include "tensor/params.h"

namespace bg {

class Averages {
 public:
  /// Allocates what the config asks for: EMA when ema_decay > 0, SWA when swa_last_frac > 0.
  Averages(const Config& config, const Ctx& ctx, const ParamTable& params);

  /// Starts the EMA at the table's values and empties the SWA.
  void start(const ParamTable& params);
  /// Adds the table's values to the mean of snapshots.
  void snapshot(const ParamTable& params);

  /// Arenas of the table's layout; empty tensors when the config asks for none. The optimiser moves the EMA together
  /// with the weights, by `ema_weight` = 1 - decay.
  Tensor ema() const;
  double ema_weight() const { return ema_weight_; }
  Tensor swa() const;
  int64_t snapshots() const { return snapshots_; }
  void set_snapshots(int64_t n) { snapshots_ = n; }

 private:
  Ctx ctx_;
  double ema_weight_ = 0;
  int64_t numel_ = 0, snapshots_ = 0;
  std::vector<std::pair<int64_t, int64_t>> averaged_;  // element ranges
  Buffer ema_, swa_;
};

/// Half-open ranges [lo, hi) of one group's elements whose averaging is the same, in order, gaps included.
struct AveragedRange {
  int64_t lo, hi;
  bool averaged;
};
std::vector<AveragedRange> averaged_ranges(const ParamTable& params, Group group);

}  // namespace bg
