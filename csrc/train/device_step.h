// One optimiser step as a device sees it: all micro-batches, losses, gradients, clipping and updates are put on its
// stream, and only then does the host wait and read a handful of numbers.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <tuple>
#include <vector>

#include "base/memory.h"
#include "base/recording.h"
#include "model/model.h"
#include "optim/optimizer.h"

namespace bg {

/// The same launches come back in every step, so they are recorded the second time a shape is met, and replayed from
/// then on. What changes between steps (ids, step sizes, the weight of the JEPA losses) is memory the launches read.
class DeviceStep {
 public:
  /// Keeps references; `optimizer` has a fused step.
  DeviceStep(Model& model, Optimizer& optimizer);

  struct MicroBatch {
    std::span<const int32_t> ids, targets;  // (B,T) each
    int64_t B = 0, T = 0;
  };
  struct Sizes {
    int64_t step = 0;
    double lr_factor = 1, momentum = 0, jepa_lambda = 0;
  };
  struct Result {
    std::vector<Losses> losses;  // of each micro-batch
    double norm = 0;             // of the gradients before clipping; may be NaN or infinite
  };
  /// fetch(i) gives micro-batch i; all have one shape. Throws NumericsError naming a loss that is not finite. Then, and
  /// when the norm is not finite, no weight, moment or average has changed.
  Result run(const Sizes& sizes, int64_t micro_batches, const std::function<MicroBatch(int64_t)>& fetch);

 private:
  using Key = std::tuple<int64_t, bool, std::vector<int64_t>>;  // plan, JEPA losses, targets scored
  void enqueue(const Key& key, int64_t batch_ids);

  Model& model_;
  Optimizer& optimizer_;
  Ctx ctx_;
  Staging ids_;      // inputs, then targets, of each micro-batch
  Staging numbers_;  // the JEPA weight going in, the loss parts coming out
  Buffer jepa_weight_, loss_parts_;
  std::map<Key, Recording> recordings_;  // empty ones: met once
};

}  // namespace bg
