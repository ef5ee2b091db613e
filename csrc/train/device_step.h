// One optimiser step as a device sees it: all micro-batches, losses, gradients, their sums over the ranks, clipping and
// updates are put on its stream, and only then does the host wait and read a handful of numbers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/memory.h"
#include "base/recording.h"
#include "model/model.h"
#include "optim/optimizer.h"
#include "ranks/buckets.h"
#include "ranks/comm.h"

namespace bg {

/// Every step makes the same launches, so they are recorded the second time a shape occurs and replayed from then on.
/// What changes between steps (ids, step sizes, the weight of the JEPA losses) is memory the launches read.
class DeviceStep {
 public:
  /// Keeps references; `optimizer` has a fused step. comm: the ranks to work with, or null.
  DeviceStep(Model& model, Optimizer& optimizer, std::shared_ptr<Comm> comm);

  struct Sizes {
    int64_t step = 0;
    double lr_factor = 1, momentum = 0, jepa_lambda = 0;  // jepa_lambda: weight of the scheduled losses
  };
  struct Result {
    std::vector<Losses> losses;  // of each micro-batch of each rank
    int64_t ids = 0, bytes = 0;  // targets scored on all ranks; those that stand for a byte
    double norm = 0;             // of the gradients before clipping; may be NaN or infinite
  };
  /// fetch(i) gives this rank's micro-batch i; all have one shape. Throws NumericsError naming a loss that is not
  /// finite (and its rank). Then, and when the norm is not finite, no weight, moment or average has changed.
  Result run(const Sizes& sizes, int64_t micro_batches, const FetchMicroBatch& fetch);

 private:
  // What makes steps launch the same work.
  struct Key {
    int64_t plan = 0;             // Model::plan_number()
    Pass pass;                    // what forward computes
    bool scheduled = false;       // whether the scheduled losses reach any parameter
    std::vector<int64_t> scored;  // targets of each micro-batch
    auto operator<=>(const Key&) const = default;
  };
  void enqueue(const Key& key);
  // Numbers of one rank: the loss parts of its n micro-batches, their scored targets, its bytes.
  static int64_t rank_numbers(int64_t n) { return n * (kNumLosses + 1) + 1; }
  int64_t world() const { return comm_ ? comm_->world() : 1; }
  int64_t rank() const { return comm_ ? comm_->rank() : 0; }

  std::shared_ptr<Comm> comm_;  // outlives the recordings that use it
  Model& model_;
  Optimizer& optimizer_;
  Ctx ctx_;
  std::unique_ptr<Buckets> buckets_;  // where there are several ranks
  StreamLayout layout_;               // of one micro-batch
  Staging streams_;                   // of all micro-batches, as layout_ says
  Staging numbers_;  // going in: the scheduled weight, this rank's counts; coming out: the numbers of all ranks
  Buffer scheduled_weight_, gathered_;
  std::map<Key, Recording> recordings_;  // empty ones: met once
};

}  // namespace bg
