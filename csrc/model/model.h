// What a model is: parameters, one static plan of activations, forward, loss and backward of both published families.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "base/config.h"
#include "base/ctx.h"
#include "tensor/params.h"

namespace bg {

/// Means over the scored positions of one batch, in nats. total = ce + jepa_lambda * (jepa_pred + jepa_sigreg_weight *
/// jepa_sigreg) + jepa_weight * latent. Parts that a config switches off are 0.
struct Losses {
  double ce = 0, jepa_pred = 0, jepa_sigreg = 0, latent = 0, total = 0;
};

class Model {
 public:
  static constexpr int64_t kSigregDirections = 256;

  /// Validates the config; first values are drawn from `seed`.
  Model(const Config& config, const Ctx& ctx, uint64_t seed);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const Config& config() const;
  const Ctx& ctx() const;
  ParamTable& params();
  const ParamTable& params() const;

  // All ids below are host memory (B,T), each in 0..V-1 (InvalidArgument names the first that is not). The plan of the
  // last (B, T, purpose) is kept: the same shapes again allocate nothing.

  /// (B,T,V) in the model's dtype; a view that the next call of any kind overwrites.
  Tensor logits(std::span<const int32_t> ids, int64_t B, int64_t T);
  /// Forward for training. `directions` (latent, 256) row-major, columns of unit length; empty: drawn from the seed.
  /// Targets of -1 are not scored. Throws NumericsError when the loss is not finite.
  Losses loss(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T, double jepa_lambda,
              std::span<const double> directions = {});
  /// Adds scale * d total / d parameter of the last loss() to the gradients. Once per loss().
  void backward(double scale = 1.0);
  void zero_gradients();
  /// Inference: nats of each target, float64, (B,T) row-major; 0 where the target is -1.
  void nll(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T, std::span<double> out);
  /// Table of the plan last used.
  std::string print_plan() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bg
