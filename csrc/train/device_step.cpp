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
      jepa_weight_(sizeof(double), ctx_.device) {
  if (comm_) buckets_ = std::make_unique<Buckets>(*comm_, model.params());
}

// Everything between the copies in and the copies out, on memory that stays where it is.
void DeviceStep::enqueue(const Key& key, int64_t batch_ids) {
  const auto& [plan, jepa_losses, scored] = key;
  const auto n = static_cast<int64_t>(scored.size()), mine = rank() * rank_numbers(n);
  const Tensor weight(jepa_weight_.data(), {}, DType::f64, ctx_.device);
  const Tensor all(gathered_.data(), {world() * rank_numbers(n)}, DType::f64, ctx_.device);
  const Tensor parts = all.slice(0, mine, mine + n * Model::kLossParts);
  const Tensor counts = all.slice(0, mine + n * Model::kLossParts, mine + rank_numbers(n));
  auto* const numbers = static_cast<double*>(numbers_.data());
  const auto* ids = static_cast<const int32_t*>(ids_.data());
  enqueue_copy(ctx_, jepa_weight_.data(), numbers, sizeof(double));
  enqueue_copy(ctx_, counts.data(), numbers + 1, counts.size_bytes());
  model_.zero_gradients();
  for (int64_t i = 0; i < n; ++i, ids += 2 * batch_ids) {
    if (buckets_ && i == n - 1)
      model_.on_gradients([this](size_t first, size_t last) { buckets_->ready(first, last); });
    model_.enqueue(ids, ids + batch_ids, scored[static_cast<size_t>(i)], jepa_losses, weight,
                   1.0 / static_cast<double>(n * world()),
                   parts.slice(0, i * Model::kLossParts, (i + 1) * Model::kLossParts));
  }
  if (buckets_) {
    model_.on_gradients({});
    comm_->all_gather(all);
    buckets_->finish();
  }
  optimizer_.fused()->enqueue(all);
  enqueue_copy(ctx_, numbers + 1 + counts.numel(), all.data(), all.size_bytes());
}

DeviceStep::Result DeviceStep::run(const Sizes& sizes, int64_t micro_batches,
                                   const std::function<MicroBatch(int64_t)>& fetch) {
  Key key{0, sizes.jepa_lambda != 0, {}};
  int64_t batch_ids = 0, bytes = 0;
  const int64_t counts = micro_batches + 1, all = world() * rank_numbers(micro_batches);
  for (int64_t i = 0; i < micro_batches; ++i) {
    const MicroBatch batch = fetch(i);
    const int64_t scored = model_.prepare_training(batch.ids, batch.targets, batch.B, batch.T);
    if (i == 0) {
      batch_ids = batch.B * batch.T;
      const size_t need = static_cast<size_t>(2 * micro_batches * batch_ids) * sizeof(int32_t);
      const size_t gathered = static_cast<size_t>(all) * sizeof(double);
      if (ids_.size_bytes() < need || gathered_.size_bytes() != gathered) {
        recordings_.clear();  // they know the old memory
        ids_ = Staging(ctx_, need);
        numbers_ = Staging(ctx_, static_cast<size_t>(1 + counts) * sizeof(double) + gathered);
        gathered_ = Buffer(gathered, ctx_.device);
      }
    }
    BG_CHECK(batch.B * batch.T == batch_ids, "micro-batch", i, "has", batch.B * batch.T, "ids, the first has",
             batch_ids);
    int32_t* const to = static_cast<int32_t*>(ids_.data()) + 2 * i * batch_ids;
    std::copy(batch.ids.begin(), batch.ids.end(), to);
    std::copy(batch.targets.begin(), batch.targets.end(), to + batch_ids);
    const int64_t offset = model_.config().byte_offset();
    bytes += std::count_if(batch.targets.begin(), batch.targets.end(), [&](int32_t id) { return id >= offset; });
    std::get<2>(key).push_back(scored);
  }
  if (std::get<0>(key) = model_.plan_number(); !recordings_.empty())
    std::erase_if(recordings_, [&](const auto& entry) { return std::get<0>(entry.first) != std::get<0>(key); });
  double* const numbers = static_cast<double*>(numbers_.data());
  numbers[0] = sizes.jepa_lambda;
  std::copy(std::get<2>(key).begin(), std::get<2>(key).end(), numbers + 1);
  numbers[counts] = static_cast<double>(bytes);
  optimizer_.fused()->prepare(sizes.step, sizes.lr_factor, sizes.momentum);

  const auto [entry, first_time] = recordings_.try_emplace(key);
  if (first_time) {
    enqueue(key, batch_ids);
  } else {
    if (!entry->second) entry->second = Recording(ctx_, [this, key, batch_ids] { enqueue(key, batch_ids); });
    entry->second.replay();
  }
  Result result;
  result.norm = optimizer_.fused()->norm();
  synchronise(ctx_);
  const double* theirs = numbers + 1 + counts;
  for (int64_t r = 0; r < world(); ++r, theirs += rank_numbers(micro_batches)) {
    const double* const scored = theirs + micro_batches * Model::kLossParts;
    try {
      for (int64_t i = 0; i < micro_batches; ++i)
        result.losses.push_back(
            model_.read_losses(theirs + i * Model::kLossParts, static_cast<int64_t>(scored[i]), sizes.jepa_lambda));
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
