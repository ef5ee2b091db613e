// One step of generating with byte260-jepa, 1024 ids into the window: one row, and eight at once.
#include <algorithm>

#include "bench/cases.h"
#include "model/decoder.h"
#include "tensor/transfer.h"

namespace bg::bench {
namespace {

constexpr int64_t kPosition = 1024;

Case generate_case(const Ctx& ctx, const std::shared_ptr<Model>& model, int64_t rows) {
  const Config& config = model->config();
  const auto ids = std::make_shared<std::vector<int32_t>>(random_ids(config, "ids", kPosition + 64));
  NextId next;
  for (int64_t i = 0; i < 3; ++i) next.ids[i] = (*ids)[static_cast<size_t>(kPosition - 2 + i)];
  next.position = kPosition;
  next.inject_end = kPosition + 64;
  const auto step = std::make_shared<std::vector<NextId>>(static_cast<size_t>(rows), next);
  const auto got = std::make_shared<std::vector<float>>();
  Case c;
  c.shape = words("byte260-jepa", "B", rows, "position", kPosition);
  c.flops = model->system().step_flops(rows, kPosition + 1).forward;
  // Weights once, keys and values of every row.
  const double keys = static_cast<double>(rows * config.num_layers * (kPosition + 1));
  const double weights = model->system().step_flops(1, 1).forward / 2;
  c.bytes = 4 * (weights + 2 * keys * static_cast<double>(config.num_kv_heads * config.head_dim()));
  c.tolerance = ctx.gemm_library == GemmLibrary::builtin ? 1e-12 : 1e-4;
  const auto decoder = std::make_shared<std::unique_ptr<Decoder>>();
  c.run = [model, step, got, decoder, ids, rows] {
    if (!*decoder) {
      *decoder = std::make_unique<Decoder>(*model, rows, kPosition + 1);
      for (int64_t b = 0; b < rows; ++b) (*decoder)->prompt(b, *ids, kPosition);
    }
    const Tensor logits = (*decoder)->step(*step);
    got->assign(logits.ptr<float>(), logits.ptr<float>() + logits.numel());
  };
  c.error = [model, got, ids, rows] {
    const auto T = static_cast<int64_t>(ids->size()), V = model->config().vocab_size();
    const Tensor want = model->logits(*ids, 1, T).reshape({T, V}).slice(0, kPosition, kPosition + 1);
    double worst = 0;
    Operands o;
    for (int64_t b = 0; b < rows; ++b)
      worst = std::max(worst,
                       relative_error(Tensor(got->data() + b * V, {1, V}, DType::f32, Device::cpu), o.doubled(want)));
    return worst;
  };
  return c;
}

}  // namespace

std::vector<Case> generate_cases(const Ctx& ctx) {
  Config config = Config::preset("byte260-jepa");
  config.set("seq_len", std::to_string(2 * kPosition));
  const auto model = std::make_shared<Model>(config, ctx, 0);
  // Many weights start at 0: all are moved away.
  for (const ParamSpec& spec : model->params().specs()) {
    if (spec.shape.rank() < 2) continue;
    const Tensor values = ParamTable::view(spec, model->params().values());
    std::vector<double> moved = download(ctx, values);
    const Random random(1, spec.name, 0);
    for (size_t i = 0; i < moved.size(); ++i) moved[i] += 0.02 * random.normal(i % 4099);
    upload(ctx, moved, values);
  }
  return {generate_case(ctx, model, 1), generate_case(ctx, model, 8)};
}

}  // namespace bg::bench
