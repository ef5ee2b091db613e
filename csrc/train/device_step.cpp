#include "train/device_step.h"

#include <algorithm>

#include "kernels/residual.h"
#include "optim/fused_step.h"

namespace bg {

DeviceStep::DeviceStep(Model& model, Optimizer& optimizer)
    : model_(model), optimizer_(optimizer), ctx_(model.ctx()), jepa_weight_(sizeof(double), ctx_.device) {}

// Everything between the copies in and the copies out, on memory that stays where it is.
void DeviceStep::enqueue(const Key& key, int64_t batch_ids) {
  const auto& [plan, jepa_losses, scored] = key;
  const auto n = static_cast<int64_t>(scored.size());
  const Tensor weight(jepa_weight_.data(), {}, DType::f64, ctx_.device);
  const Tensor parts(loss_parts_.data(), {n * Model::kLossParts}, DType::f64, ctx_.device);
  auto* const numbers = static_cast<double*>(numbers_.data());
  const auto* ids = static_cast<const int32_t*>(ids_.data());
  enqueue_copy(ctx_, jepa_weight_.data(), numbers, sizeof(double));
  model_.zero_gradients();
  for (int64_t i = 0; i < n; ++i, ids += 2 * batch_ids)
    model_.enqueue(ids, ids + batch_ids, scored[static_cast<size_t>(i)], jepa_losses, weight,
                   1.0 / static_cast<double>(n), parts.slice(0, i * Model::kLossParts, (i + 1) * Model::kLossParts));
  optimizer_.fused()->enqueue(parts);
  enqueue_copy(ctx_, numbers + 1, parts.data(), parts.size_bytes());
}

DeviceStep::Result DeviceStep::run(const Sizes& sizes, int64_t micro_batches,
                                   const std::function<MicroBatch(int64_t)>& fetch) {
  Key key{0, sizes.jepa_lambda != 0, {}};
  int64_t batch_ids = 0;
  for (int64_t i = 0; i < micro_batches; ++i) {
    const MicroBatch batch = fetch(i);
    const int64_t scored = model_.prepare_training(batch.ids, batch.targets, batch.B, batch.T);
    if (i == 0) {
      batch_ids = batch.B * batch.T;
      const size_t need = static_cast<size_t>(2 * micro_batches * batch_ids) * sizeof(int32_t);
      const size_t parts = static_cast<size_t>(micro_batches * Model::kLossParts) * sizeof(double);
      if (ids_.size_bytes() < need || loss_parts_.size_bytes() != parts) {
        recordings_.clear();  // they know the old memory
        ids_ = Staging(ctx_, need);
        numbers_ = Staging(ctx_, sizeof(double) + parts);
        loss_parts_ = Buffer(parts, ctx_.device);
      }
    }
    BG_CHECK(batch.B * batch.T == batch_ids, "micro-batch", i, "has", batch.B * batch.T, "ids, the first has",
             batch_ids);
    int32_t* const to = static_cast<int32_t*>(ids_.data()) + 2 * i * batch_ids;
    std::copy(batch.ids.begin(), batch.ids.end(), to);
    std::copy(batch.targets.begin(), batch.targets.end(), to + batch_ids);
    std::get<2>(key).push_back(scored);
  }
  if (std::get<0>(key) = model_.plan_number(); !recordings_.empty())
    std::erase_if(recordings_, [&](const auto& entry) { return std::get<0>(entry.first) != std::get<0>(key); });
  *static_cast<double*>(numbers_.data()) = sizes.jepa_lambda;
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
  const double* parts = static_cast<const double*>(numbers_.data()) + 1;
  for (const int64_t scored : std::get<2>(key)) {
    result.losses.push_back(model_.read_losses(parts, scored, sizes.jepa_lambda));
    parts += Model::kLossParts;
  }
  return result;
}

}  // namespace bg
