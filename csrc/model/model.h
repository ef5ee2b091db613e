// What a model is: parameters, one static plan of activations, forward, loss and backward of both published families.
#pragma once

#include <functional>
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
  /// order of declaration) have got all that this pass adds to them; not of all tensors. Empty: nobody is told.
  void on_gradients(std::function<void(size_t first, size_t last)> ready);

  // For steps that stay on the device (train/device_step.h): nothing is read back, nothing waits.

  /// Plans training on (B,T) and checks the batch as loss() does. Returns the number of targets that are scored.
  int64_t prepare_training(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T);
  /// Directions of SIGReg for the following losses; empty: the drawn ones.
  void set_directions(std::span<const double> directions);
  /// Which memory the training plan has; changes when it is allocated anew.
  int64_t plan_number() const;
  /// After prepare_training() of the same sizes: enqueues forward, losses and backward of share times the loss. ids and
  /// targets are Staging memory. jepa_weight (rank 0, f64, on the device) weighs the JEPA losses, which reach no
  /// parameter when `jepa_losses` is false. parts (kLossParts, f64, on the device) receives what read_losses() reads.
  void enqueue(const int32_t* ids, const int32_t* targets, int64_t scored, bool jepa_losses, Tensor jepa_weight,
               double share, Tensor parts);
  static constexpr int64_t kLossParts = 4;
  /// Throws NumericsError when one is not finite.
  Losses read_losses(const double* parts, int64_t scored, double jepa_lambda) const;

  /// Inference: nats of each target, float64, (B,T) row-major; 0 where the target is -1.
  void nll(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T, std::span<double> out);

  // Decoding (train/generate.h): rows that grow by one id a step, while what their earlier positions left behind stays
  // in memory. A row's logits are those of logits() on its ids, on the CPU to the bit (with the built-in GemmLibrary),
  // whatever the other rows hold; where seq_len is above rope_train_len, on its ids filled up to seq_len. Patch models
  // have no such steps: InvalidArgument.

  /// Room for `rows` rows of at most `positions` each (rounded up); what rows held before is forgotten. Returns a
  /// number that decoding() keeps until somebody starts anew. Weights must stay as they are from here to the last step.
  int64_t start_decoding(int64_t rows, int64_t positions);
  /// Of the last start_decoding(); 0 before the first.
  int64_t decoding() const;
  /// An ordinary forward over ids (T), of which the first `length` become the past of `row`; those behind fill up.
  /// (V) logits behind the first `length`, on the device, valid until the next call.
  Tensor decode_prompt(int64_t row, std::span<const int32_t> ids, int64_t length);
  struct NextId {
    int32_t ids[3] = {0, 0, 0};  // at positions position-2, position-1, position
    int32_t position = -1;       // at least 2 and the row's length so far; -1: the row rests
    int32_t first = 0;           // first position that attention may see: of the row's last bos when doc_mask, else 0
    int32_t inject_end = 0;      // JEPA injects into positions before this
  };
  /// One more id a row. (rows,V) logits in host memory, valid until the next step; of rows that rest no numbers of
  /// meaning. Allocates nothing from the third step on; on CUDA replays a recording.
  Tensor decode_step(std::span<const NextId> next);

  /// Table of the plan last used.
  std::string print_plan() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bg
