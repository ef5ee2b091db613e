// One step of generating with byte260-jepa, 1024 ids into the window: one row, and eight at once.
#include <algorithm>

#include "base/random.h"
#include "bench/cases.h"
#include "bench/ops.h"
#include "model/decoder.h"
#include "tensor/transfer.h"

namespace bg::bench {
namespace {

constexpr int64_t kPosition = 1024;

Figure bench_rows(const Ctx& ctx, Model& model, int64_t rows, double budget_s) {
  const Config& config = model.config();
  const std::vector<int32_t> ids = random_ids(config, "ids", kPosition + 64);
  const auto T = static_cast<int64_t>(ids.size()), V = config.vocab_size();
  const std::vector<double> want =
      download(ctx, model.logits(ids, 1, T).reshape({T, V}).slice(0, kPosition, kPosition + 1));
  NextId next;
  for (int64_t i = 0; i < 3; ++i) next.ids[i] = ids[static_cast<size_t>(kPosition - 2 + i)];
  next.position = kPosition;
  next.inject_end = kPosition + 64;
  const std::vector<NextId> step(static_cast<size_t>(rows), next);
  Decoder decoder(model, rows, kPosition + 1);
  for (int64_t b = 0; b < rows; ++b) decoder.prompt(b, ids, kPosition);
  Figure f;
  f.group = "generate";
  f.what = words("byte260-jepa", "B", rows, "position", kPosition);
  f.flops = model.system().step_flops(rows, kPosition + 1).forward;
  // Weights once, keys and values of every row.
  const double weights = model.system().step_flops(1, 1).forward / 2;
  const double keys = static_cast<double>(rows * config.num_layers * (kPosition + 1));
  f.bytes = 4 * (weights + 2 * keys * static_cast<double>(config.num_kv_heads * config.head_dim()));
  f.tolerance = ctx.gemm_library == GemmLibrary::builtin ? 1e-12 : 1e-4;
  f.checked_at = "the size timed, against all positions at once";
  Tensor logits;
  const auto run = [&] { logits = decoder.step(step); };
  run();
  double worst = 0;
  const std::vector<double> got = download(ctx, logits);
  for (int64_t b = 0; b < rows; ++b) {
    const auto at = static_cast<size_t>(b * V), size = static_cast<size_t>(V);
    const double error = relative_error(std::span(got).subspan(at, size), want);
    worst = error <= worst ? worst : error;  // NaN stays
  }
  f.error = worst;
  time_calls(ctx, run, budget_s, f);
  return f;
}

}  // namespace

std::vector<Figure> bench_generate(const Ctx& ctx, double budget_s, int64_t, int64_t) {
  Config config = Config::preset("byte260-jepa");
  config.set("seq_len", std::to_string(2 * kPosition));
  Model model(config, ctx, 0);
  // Many weights start at 0: all are moved away.
  for (const ParamSpec& spec : model.params().specs()) {
    if (spec.shape.rank() < 2) continue;
    const Tensor values = ParamTable::view(spec, model.params().values());
    std::vector<double> moved = download(ctx, values);
    const Random random(1, spec.name, 0);
    for (size_t i = 0; i < moved.size(); ++i) moved[i] += 0.02 * random.normal(i % 4099);
    upload(ctx, moved, values);
  }
  return {bench_rows(ctx, model, 1, budget_s / 2), bench_rows(ctx, model, 8, budget_s / 2)};
}

}  // namespace bg::bench
