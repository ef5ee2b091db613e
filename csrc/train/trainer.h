// How a run proceeds: each step reads its micro-batches, adds up their gradients, clips, moves the weights and averages
// them, until the steps or the wall-clock budget are used up.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/config.h"
#include "data/loader.h"
#include "model/model.h"
#include "optim/average.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "ranks/buckets.h"
#include "ranks/comm.h"
#include "train/device_step.h"

namespace bg {

/// What one step did. Losses are means over the micro-batches of all ranks, before the weights moved.
struct StepStats {
  int64_t step = 0;      // its number, from 0
  Losses losses;         // nats
  double grad_norm = 0;  // before clipping
  double lr_factor = 0, jepa_lambda = 0, muon_momentum = 0;
  int64_t ids = 0, bytes = 0;  // targets scored; those that stand for a byte
  double seconds = 0;          // of this step
  double elapsed_s = 0;        // on the run's clock when it ended
};

/// How far a run has come, apart from its tensors.
struct Progress {
  int64_t step = 0;           // steps done: also the position in the data
  int64_t snapshots = 0;      // in the SWA mean
  int64_t bytes = 0;          // trained on so far
  double elapsed_s = 0;       // on the run's clock
  double first_step_s = 0;    // when the first step ended: it also pays for memory, so means leave it out
  double longest_step_s = 0;  // of the recent ones: predicts the next
};

/// With several ranks every one has a trainer of its own, all make the same calls, and each step is theirs together:
/// gradients are summed while backward runs, Muon's work is shared out, weights stay equal to the bit.
///
/// The run's clock starts with the first step after construction, restore() or pause(), and then counts all time, that
/// between steps too: a budget covers whatever the caller does there, unless it calls pause().
class Trainer {
 public:
  /// `now` gives seconds from any origin; by default the steady clock. `loader` may be null: step_on() only. The model
  /// section of `config` must be the model's. Allocates everything that steps need but the model's plan. comm: the
  /// ranks to train with, or null; all begin with rank 0's weights.
  Trainer(const Config& config, std::shared_ptr<Model> model, std::shared_ptr<Loader> loader,
          std::function<double()> now = {}, std::shared_ptr<Comm> comm = nullptr);
  ~Trainer();

  /// The next step on the loader's batches. Throws InvalidArgument when the run is over, NumericsError naming step and
  /// tensor for NaN or infinity in loss or gradient: no weight, moment or average has changed then.
  StepStats step();
  /// The same on given ids and targets (B, T), cut along B into `micro_batches` equal parts. `directions` as for
  /// Model::loss().
  StepStats step_on(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                    int64_t micro_batches = 1, std::span<const double> directions = {});
  /// Whether the run is over: no further step may begin. After false the next step may begin, however long its caller
  /// takes.
  bool done() const;
  /// What done() and the schedules by the clock depend on.
  Clock clock() const;
  /// The next step, and done() before it, use `clock` instead of this rank's own: that of rank 0, on all ranks.
  void agree(const Clock& clock) { agreed_ = clock; }
  /// Stops the run's clock until the next step.
  void pause();

  /// Whether state() is that of whole steps. False after an error while a step was moving weights, moments and
  /// averages.
  bool whole() const { return whole_; }
  /// Grows with every piece of progress inside a step; any thread may ask.
  int64_t marks() const { return marks_; }

  const Config& config() const { return config_; }
  Model& model() { return *model_; }
  const Averages& averages() const { return averages_; }
  Progress progress() const;

  /// Every tensor that the next steps depend on, as views: "weights/NAME", "first/NAME" (Muon's buffer or Adam's first
  /// moment), "second/NAME" (Adam only), "ema/NAME" and "swa/NAME" (averaged tensors, when the config keeps them).
  /// After overwriting them, call restore() with the progress they belong to.
  struct StateTensor {
    std::string name;
    Tensor tensor;
  };
  std::vector<StateTensor> state() const;
  void restore(const Progress& progress);
  /// Copies rank 0's tensors of state() to all ranks; the caller restores their progress with restore().
  void share_state();
  /// One for each tensor of state(); see kernels/fingerprint.h.
  std::vector<std::pair<std::string, uint64_t>> fingerprints() const;
  /// Throws InvalidArgument when restore() would refuse it.
  void check(const Progress& progress) const;

 private:
  /// fetch(micro) gives one micro-batch; directions as for Model::loss().
  StepStats run(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions);
  // Losses and gradient norm of the step. On a device the weights have moved too; on the CPU run() moves them
  // afterwards.
  void measure(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
               StepStats& stats);
  // The same on the CPU, up to the gradients' norm.
  void measure_on_cpu(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
                      StepStats& stats);
  // Throws NumericsError naming the rank and tensor whose gradient is not finite.
  [[noreturn]] void refuse(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
                           double lambda);
  // `own` numbers of every rank, in host memory, rank by rank.
  std::vector<double> gather(std::span<const double> own);
  void count(std::span<const int32_t> targets, StepStats& stats) const;
  double elapsed() const;
  int64_t world() const { return comm_ ? comm_->world() : 1; }

  Config config_;
  std::shared_ptr<Comm> comm_;  // null: one rank
  std::shared_ptr<Model> model_;
  std::shared_ptr<Loader> loader_;
  std::function<double()> now_;
  Averages averages_;
  Optimizer optimizer_;
  std::unique_ptr<DeviceStep> device_step_;  // on CUDA
  std::unique_ptr<Buckets> buckets_;         // on the CPU, where there are several ranks
  std::optional<Clock> agreed_;
  std::atomic<int64_t> marks_{0};
  StepTimes times_;
  Progress progress_;
  mutable int64_t granted_ = -1;           // the last step that done() let begin
  mutable double started_ = 0, seen_ = 0;  // of now_: when elapsed() was 0 in this process; the last look
  bool running_ = false;
  bool whole_ = true;
};

}  // namespace bg
