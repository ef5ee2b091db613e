// What a model is: parameters, one static plan of activations for each shape, and the checks and copies around a
// system's forward, losses and backward.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/config.h"
#include "base/ctx.h"
#include "model/losses.h"
#include "model/micro_batch.h"
#include "model/system.h"
#include "tensor/params.h"

namespace bg {

class Model {
 public:
  /// Validates the config; first values are drawn from `seed`.
  Model(const Config& config, const Ctx& ctx, uint64_t seed);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Config& config() const;
  const Ctx& ctx() const;
  ParamTable& params();
  const ParamTable& params() const;
  /// Arithmetic of one pass over (B,T) ids.
  Flops flops(int64_t B, int64_t T) const;

  // All ids below are host memory (B,T), each in 0..V-1 (InvalidArgument names the first that is not). The plan of the
  // last (B, T, purpose) is kept: the same shapes again allocate nothing.

  /// (B,T,V) in the model's dtype; a view that the next call of any kind overwrites.
  Tensor logits(std::span<const int32_t> ids, int64_t B, int64_t T);
  /// Keeps the memory of the plan last used, hence that of logits(), when the model plans anew or is gone.
  std::shared_ptr<const void> activations() const;
  /// Forward for training. `directions` (latent, 256) row-major, columns of unit length; empty: drawn from the seed.
  /// Targets of -1 are not scored. Throws NumericsError when the loss is not finite.
  Losses loss(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T, double jepa_lambda,
              std::span<const double> directions = {});
  /// Adds scale * d total / d parameter of the last loss() to the gradients. Once per loss().
  void backward(double scale = 1.0);
  void zero_gradients();
  /// `ready` is called from then on inside every backward pass, whenever the gradients of tensors first..last-1 (in
  /// order of declaration) have got all that this pass adds to them; not of all tensors. Empty: nobody is called.
  void on_gradients(std::function<void(size_t first, size_t last)> ready);
  /// What later passes compute; the default is Pass().
  void set_pass(Pass pass);
  Pass pass() const;

  /// Inference: nats of each target, float64, (B,T) row-major; 0 where the target is -1.
  void nll(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T, std::span<double> out);

  // For steps that stay on the device (train/device_step.h): nothing is read back, nothing waits.

  /// The streams that a micro-batch of (B,T) has.
  StreamLayout streams(int64_t B, int64_t T) const;
  /// Plans training on (B,T) and checks the batch as loss() does. Returns the number of targets that are scored.
  int64_t prepare_training(const MicroBatch& batch);
  /// Directions of SIGReg for the following losses; empty: the drawn ones.
  void set_directions(std::span<const double> directions);
  /// Which memory the training plan has; changes when it is allocated anew.
  int64_t plan_number() const;
  /// After prepare_training() of the same sizes: enqueues forward, losses and backward of share times the loss. batch:
  /// Staging memory, as streams() lays it out. scheduled_weight (rank 0, f64, on the device) weighs the scheduled
  /// losses, which reach no parameter when `scheduled` is false. parts (kNumLosses, f64, on the device) receives what
  /// read_losses() reads.
  void enqueue(const int32_t* batch, int64_t scored, bool scheduled, Tensor scheduled_weight, double share,
               Tensor parts);

  // For decoders (model/decoder.h).

  System& system();
  /// Logits (T,V) of one row; the pass keeps what `decoding` says.
  Tensor logits(std::span<const int32_t> ids, const Decoding& decoding);
  /// Points the system's tensors at this plan's memory.
  void use(const Plan& plan);
  /// The plan is going away.
  void forget(const Plan& plan);
  /// Allocates; when memory runs out, says what of: "activations of 3 rows of 512 ids", and `hint(bytes of the plan)`.
  void commit(Plan& plan, const std::string& what, const std::function<std::string(size_t)>& hint) const;

  /// Table of the plan last used.
  std::string print_plan() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bg
