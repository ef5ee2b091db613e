// A whole training step of byte260-jepa at B = 2, T = 1024: forward, loss, backward, clipping, Muon, Adam, averages.
#include <algorithm>
#include <cmath>

#include "bench/cases.h"
#include "train/trainer.h"

namespace bg::bench {
namespace {

constexpr int64_t kRows = 2, kLength = 1024;

std::vector<int32_t> random_ids(const Config& config, const char* name, int64_t n) {
  const Random random(0, name, 0);
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(config.byte_offset() + static_cast<int64_t>(random.uniform(i) * 256));
  return ids;
}

// Additions and multiplications of one step's matrix products. Linear maps cost 2 a weight and row forward and 4
// backward; attention 4 d a pair and head forward and 10 d backward; Newton-Schulz as it is computed, symmetric
// products by halves. Element-wise work and JEPA's losses (a thousandth) are left out.
double step_flops(const Config& c, const ParamTable& params) {
  const double rows = static_cast<double>(kRows * kLength);
  double flops = 6 * rows * static_cast<double>(c.vocab_size() * c.model_dim);
  for (const ParamSpec& spec : params.specs()) {
    if (spec.group != Group::matrix || spec.shape.rank() != 2) continue;
    flops += 6 * rows * static_cast<double>(spec.shape.numel());
    const double n = static_cast<double>(std::min(spec.shape[0], spec.shape[1]));
    const double m = static_cast<double>(std::max(spec.shape[0], spec.shape[1]));
    flops += static_cast<double>(c.newton_schulz_steps) * (n * n * m + n * n * n + 2 * n * n * m);
  }
  const double pairs = static_cast<double>(kRows * kLength * (kLength + 1)) / 2;
  flops += static_cast<double>(c.num_layers) * 14 * pairs * static_cast<double>(c.model_dim);
  return flops;
}

// The gradient of a short batch in float32 against float64, every weight moved away from its start (many start at 0).
double gradient_error(const Config& config, const Ctx& ctx) {
  constexpr int64_t T = 48;
  const std::vector<int32_t> ids = random_ids(config, "ids", kRows * T),
                             targets = random_ids(config, "targets", kRows * T);
  Ctx reference = ctx;
  reference.dtype = DType::f64;
  Model fast(config, ctx, 0), exact(config, reference, 0);
  double off = 0, size = 0;
  const auto move = [](Model& model) {
    for (const ParamSpec& spec : model.params().specs()) {
      if (spec.shape.rank() < 2) continue;
      const Tensor value = ParamTable::view(spec, model.params().values());
      const Random random(1, spec.name, 0);
      BG_FLOATS(value.dtype(), T, {
        for (int64_t i = 0; i < value.numel(); ++i)
          value.ptr<T>()[i] +=
              static_cast<T>(static_cast<float>(0.02 * random.normal(static_cast<uint64_t>(i % 4099))));
      });
    }
    return &model;
  };
  for (Model* model : {move(fast), move(exact)}) {
    model->loss(ids, targets, kRows, T, 0.001);
    model->backward();
  }
  const float* got = fast.params().grads().ptr<float>();
  const double* want = exact.params().grads().ptr<double>();
  for (int64_t i = 0; i < fast.params().arena_numel(); ++i) {
    off += (static_cast<double>(got[i]) - want[i]) * (static_cast<double>(got[i]) - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(off / size);
}

}  // namespace

std::vector<Case> step_cases(const Ctx& ctx) {
  Config config = Config::preset("byte260-jepa");
  config.set("seq_len", std::to_string(kLength));
  const auto model = std::make_shared<Model>(config, ctx, 0);
  const auto trainer = std::make_shared<Trainer>(config, model, nullptr);
  const auto ids = std::make_shared<std::vector<int32_t>>(random_ids(config, "ids", kRows * kLength));
  const auto targets = std::make_shared<std::vector<int32_t>>(random_ids(config, "targets", kRows * kLength));
  Case c;
  c.shape = words("byte260-jepa", "B", kRows, "T", kLength);
  c.flops = step_flops(config, model->params());
  // Weights, gradients, momentum and averages: read and written once each.
  c.bytes = 8.0 * 4 * static_cast<double>(model->params().numel());
  c.tolerance = 1e-4;
  c.run = [trainer, ids, targets] { trainer->step_on(*ids, *targets, kRows, kLength); };
  c.error = [config, ctx] { return gradient_error(config, ctx); };
  return {std::move(c)};
}

}  // namespace bg::bench
