// How one step moves all parameters: global clipping, then Muon or Adam by each tensor's group, the running average
// in the same pass. On CUDA the same in a few launches: optim/fused_step.h.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/config.h"
#include "base/ctx.h"
#include "kernels/update.h"
#include "optim/average.h"
#include "optim/fused_step.h"
#include "optim/muon.h"
#include "ranks/comm.h"
#include "tensor/buffer.h"
#include "tensor/params.h"

namespace bg {

/// Adam's numbers of step `step` (from 0) but for clipping and the average, with step sizes times `lr_factor`.
AdamStep adam_step_of(const Config& config, const GroupRates& rates, int64_t step, double lr_factor);

/// Throws InvalidArgument unless `moved` (element ranges of the arenas) holds each parameter once; names a tensor that
/// is missing, which would silently keep its first values.
void check_all_are_moved(const ParamTable& params, std::vector<std::pair<int64_t, int64_t>> moved);

class Optimizer {
 public:
  /// Allocates all moments (zero); steps allocate nothing. Keeps the address of `params`, whose layout must not change.
  /// On CUDA the averages that steps will move must be known here, unless the config keeps no EMA. With `comm` (kept by
  /// reference, may be null) gradients are equal on all ranks, which share out the work of Muon.
  Optimizer(const Config& config, const Ctx& ctx, ParamTable& params, const Averages* averages = nullptr,
            Comm* comm = nullptr);

  /// Norm of the gradients before clipping. When it is not finite: NumericsError naming the tensor, unless `refuse` is
  /// false.
  double gradient_norm(bool refuse = true);
  /// Step number `step` (from 0) on gradients of norm `norm`, with step sizes times `lr_factor`. Moves `averages`' EMA.
  /// On CUDA it waits, and throws as gradient_norm() does.
  void step(int64_t step, double norm, double lr_factor, double momentum, const Averages& averages);
  /// The step as launches that a CUDA graph may record; null on the CPU.
  FusedStep* fused() const { return fused_.get(); }

  /// Muon's buffer or Adam's first moment, an arena of the table's layout.
  Tensor first_moments() const;
  /// Adam's second moment: an arena of the table's layout from element second_offset() on; what Muon moves has none.
  Tensor second_moments() const;
  int64_t second_offset() const { return params_.range(Mover::adam).first; }

 private:
  struct AdamRange {
    int64_t lo, hi;
    bool averaged;
    GroupRates rates;
  };
  const Config config_;
  Ctx ctx_;
  ParamTable& params_;
  std::optional<Muon> muon_;  // on the CPU
  std::vector<AdamRange> adam_;
  Buffer first_, second_;
  std::unique_ptr<FusedStep> fused_;  // on CUDA
  Tensor ema_;                        // that it moves
  std::vector<double> partial_;
};

}  // namespace bg
