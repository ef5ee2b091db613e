// A whole training step of byte260-jepa at B = 2, T = 1024: forward, loss, backward, clipping, Muon, Adam, averages.
#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "tensor/transfer.h"
#include "train/trainer.h"

namespace bg::bench {

constexpr int64_t kRows = 2, kLength = 1024;

std::vector<int32_t> random_ids(const Config& config, const char* name, int64_t n) {
  const Random random(0, name, 0);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(config.byte_offset() + static_cast<int64_t>(random.uniform(i) * 256));
  return ids;
}

StepFlops step_flops(const Model& model, int64_t rows, int64_t T) {
  const Flops once = model.flops(rows, T);
  StepFlops flops;
  flops.forward = once.forward;
  flops.backward = once.backward;
  for (const ParamSpec& spec : model.params().specs()) {
    if (spec.group != Group::matrix || spec.shape.rank() != 2) continue;
    const double n = static_cast<double>(std::min(spec.shape[0], spec.shape[1]));
    const double m = static_cast<double>(std::max(spec.shape[0], spec.shape[1]));
    flops.optimiser +=
        static_cast<double>(model.config().newton_schulz_steps) * (n * n * m + n * n * n + 2 * n * n * m);
  }
  return flops;
}

double gradient_error(const Config& config, const Ctx& ctx, int64_t T) {
  const std::vector<int32_t> ids = random_ids(config, "ids", kRows * T),
                             targets = random_ids(config, "targets", kRows * T);
  Ctx reference;
  reference.dtype = DType::f64;
  reference.pool = ctx.pool;
  Model fast(config, ctx, 0), exact(config, reference, 0);
  // Many weights start at 0: all are moved away.
  for (const ParamSpec& spec : exact.params().specs()) {
    std::vector<double> value = download(ctx, ParamTable::view(spec, fast.params().values()));
    const Random random(1, spec.name, 0);
    if (spec.shape.rank() >= 2)
      for (size_t i = 0; i < value.size(); ++i)
        value[i] = static_cast<double>(static_cast<float>(value[i] + 0.02 * random.normal(i % 4099)));
    for (Model* model : {&fast, &exact}) upload(model->ctx(), value, ParamTable::view(spec, model->params().values()));
  }
  for (Model* model : {&fast, &exact}) {
    model->params().refresh_operands(model->ctx());
    model->zero_gradients();
    model->loss(ids, targets, kRows, T, 0.001);
    model->backward();
  }
  const std::vector<double> got = download(ctx, fast.params().grads()),
                            want = download(reference, exact.params().grads());
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    off += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(off / size);
}

std::vector<Case> step_cases(const Ctx& ctx) {
  Config config = Config::preset("byte260-jepa");
  config.set("seq_len", std::to_string(kLength));
  const auto model = std::make_shared<Model>(config, ctx, 0);
  const auto trainer = std::make_shared<Trainer>(config, model, nullptr);
  const auto ids = std::make_shared<std::vector<int32_t>>(random_ids(config, "ids", kRows * kLength));
  const auto targets = std::make_shared<std::vector<int32_t>>(random_ids(config, "targets", kRows * kLength));
  Case c;
  c.shape = words("byte260-jepa", "B", kRows, "T", kLength);
  const StepFlops flops = step_flops(*model, kRows, kLength);
  c.flops = flops.forward + flops.backward + flops.optimiser;
  // Weights, gradients, momentum and averages: read and written once each.
  c.bytes = 8.0 * 4 * static_cast<double>(model->params().numel());
  c.tolerance = 1e-4;
  c.run = [trainer, ids, targets] { trainer->step_on(*ids, *targets, kRows, kLength); };
  c.error = [config, ctx] { return gradient_error(config, ctx, 48); };
  return {std::move(c)};
}

}  // namespace bg::bench
