#include "train/device_step.h"

#include <algorithm>

#include "kernels/residual.h"
#include "optim/fused_step.h"

namespace bg {

DeviceStep::DeviceStep(Model& model, Optimizer& optimizer, std::shared_ptr<Comm> comm)
    : comm_(std::move(comm)),
      model_(model),
      optimizer_(optimizer),
      ctx_(model.ctx()),
      scheduled_weight_(sizeof(double), ctx_.device) {
  if (comm_) buckets_ = std::make_unique<Buckets>(*comm_, model.params());
}

// Everything between the copies in and the copies out, on memory that stays where it is.
void DeviceStep::enqueue(const Key& key) {
  const auto n = static_cast<int64_t>(key.scored.size()), mine = rank() * rank_numbers(n);
  const Tensor weight(scheduled_weight_.data(), {}, DType::f64, ctx_.device);
  const Tensor all(gathered_.data(), {world() * rank_numbers(n)}, DType::f64, ctx_.device);
  const Tensor parts = all.slice(0, mine, mine + n * kNumLosses);
  const Tensor counts = all.slice(0, mine + n * kNumLosses, mine + rank_numbers(n));
  auto* const numbers = static_cast<double*>(numbers_.data());
  const auto* streams = static_cast<const int32_t*>(streams_.data());
  enqueue_copy(ctx_, scheduled_weight_.data(), numbers, sizeof(double));
  enqueue_copy(ctx_, counts.data(), numbers + 1, counts.size_bytes());
  model_.zero_gradients();
  for (int64_t i = 0; i < n; ++i) {
    if (buckets_ && i == n - 1)
      model_.on_gradients([this](size_t first, size_t last) { buckets_->ready(first, last); });
    model_.enqueue(streams + layout_.offset(i, 0), key.scored[static_cast<size_t>(i)], key.scheduled, weight,
                   1.0 / static_cast<double>(n * world()), parts.slice(0, i * kNumLosses, (i + 1) * kNumLosses));
  }
  if (buckets_) {
    model_.on_gradients({});
    comm_->all_gather(all);
    buckets_->finish();
  }
  optimizer_.fused()->enqueue(all);
  enqueue_copy(ctx_, numbers + 1 + counts.numel(), all.data(), all.size_bytes());
}

DeviceStep::Result DeviceStep::run(const Sizes& sizes, int64_t micro_batches, const FetchMicroBatch& fetch) {
  Key key;
  key.pass = model_.pass();
  key.scheduled = sizes.jepa_lambda != 0;
  int64_t bytes = 0;
  const int64_t counts = micro_batches + 1, all = world() * rank_numbers(micro_batches);
  for (int64_t i = 0; i < micro_batches; ++i) {
    const MicroBatch batch = fetch(i);
    key.scored.push_back(model_.prepare_training(batch));
    const StreamLayout layout = model_.streams(batch.B, batch.T);
    if (i == 0) {
      layout_ = layout;
      const size_t need = static_cast<size_t>(micro_batches * layout.numel()) * sizeof(int32_t);
      const size_t gathered = static_cast<size_t>(all) * sizeof(double);
      if (streams_.size_bytes() < need || gathered_.size_bytes() != gathered) {
        recordings_.clear();  // they know the old memory
        streams_ = Staging(ctx_, need);
        numbers_ = Staging(ctx_, static_cast<size_t>(1 + counts) * sizeof(double) + gathered);
        gathered_ = Buffer(gathered, ctx_.device);
      }
    }
    BG_CHECK(layout == layout_, "micro-batch", i, "has", layout.numel(), "numbers, the first has", layout_.numel());
    for (size_t s = 0; s < batch.streams.size(); ++s)
      std::copy(batch.streams[s].begin(), batch.streams[s].end(),
                static_cast<int32_t*>(streams_.data()) + layout_.offset(i, s));
    const std::span<const int32_t> targets = batch.targets();
    bytes += model_.config().vocab().count_bytes(targets.data(), static_cast<int64_t>(targets.size()));
  }
  key.plan = model_.plan_number();
  std::erase_if(recordings_, [&](const auto& entry) { return entry.first.plan != key.plan; });
  double* const numbers = static_cast<double*>(numbers_.data());
  numbers[0] = sizes.jepa_lambda;
  std::copy(key.scored.begin(), key.scored.end(), numbers + 1);
  numbers[counts] = static_cast<double>(bytes);
  optimizer_.fused()->prepare(sizes.step, sizes.lr_factor, sizes.momentum);

  const auto [entry, first_time] = recordings_.try_emplace(key);
  if (first_time) {
    enqueue(key);
  } else {
    if (!entry->second) entry->second = Recording(ctx_, [this, key] { enqueue(key); });
    entry->second.replay();
  }
  Result result;
  result.norm = optimizer_.fused()->norm();
  synchronise(ctx_);
  const double* theirs = numbers + 1 + counts;
  for (int64_t r = 0; r < world(); ++r, theirs += rank_numbers(micro_batches)) {
    const double* const scored = theirs + micro_batches * kNumLosses;
    try {
      for (int64_t i = 0; i < micro_batches; ++i)
        result.losses.push_back(read_losses(model_.config(), {theirs + i * kNumLosses, static_cast<size_t>(kNumLosses)},
                                            static_cast<int64_t>(scored[i]), sizes.jepa_lambda));
    } catch (const NumericsError& error) {
      if (world() == 1) throw;
      throw NumericsError("rank " + std::to_string(r) + ": " + error.what());
    }
    for (int64_t i = 0; i < micro_batches; ++i) result.ids += static_cast<int64_t>(scored[i]);
    result.bytes += static_cast<int64_t>(scored[micro_batches]);
  }
  return result;
}

}  // namespace bg
