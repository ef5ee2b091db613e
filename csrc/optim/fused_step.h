// An optimiser step without the host: every decision is taken on the device.
#pragma once

#include <cstdint>
#include <memory>

#include "base/config.h"
#include "base/ctx.h"
#include "ranks/comm.h"
#include "tensor/params.h"
#include "tensor/tensor.h"

namespace bg {

/// One optimiser step without the host: gradient norm, clipping, Muon, Adam, running average and the copies that
/// products read, in a few launches. The mathematics is Optimizer's; see optim/optimizer.h.
class FusedStep {
 public:
  virtual ~FusedStep() = default;
  /// Puts step sizes for step `step` (from 0) where the kernels read them. Cheap; ordered with the context's stream;
  /// not part of a recording.
  virtual void prepare(int64_t step, double lr_factor, double momentum) = 0;
  /// Enqueues the whole step (capturable in a CUDA graph: the same launches whatever the numbers). Changes no weight,
  /// moment or average when the norm is not finite or `losses` (a float64 vector on the device, may be empty) holds a
  /// value that is not finite. The very first call also chooses how to multiply: do not record that one.
  virtual void enqueue(Tensor losses) = 0;
  /// Waits; norm of the gradients before clipping of the last enqueue (may be NaN or infinity).
  virtual double norm() = 0;
};

/// Null on the CPU. `first`, `second`: arenas as Optimizer has them; ema: Averages::ema(), may be empty; ema_weight: 1
/// - its decay; comm: null, or the ranks that share out Muon's work. Keeps the addresses of all of them. After a step
/// the table's operands equal its values, rounded.
std::unique_ptr<FusedStep> make_fused_step(const Config& config, const Ctx& ctx, ParamTable& params, Tensor first,
                                           Tensor second, Tensor ema, double ema_weight, Comm* comm);

}  // namespace bg
