// Whole models: the optimiser, forward and backward of one micro-batch, and steps as training takes them.
#include <algorithm>

#include "base/device_measure.h"
#include "base/recording.h"
#include "bench/cases.h"
#include "bench/ops.h"
#include "train/trainer.h"

namespace bg::bench {
namespace {

constexpr double kLambda = 0.001;  // of the JEPA losses, so that they are computed
constexpr int64_t kCheckT = 48;
double gradient_tolerance(const Ctx& ctx) {
  return ctx.dtype == DType::bf16 ? 4e-2 : 1e-4;
}

std::string checked_gradient() {
  return words("B 2 T", kCheckT, "gradient of all");
}

Config config_of(const char* preset, int64_t T) {
  Config config = Config::preset(preset);
  config.set("seq_len", std::to_string(T));
  config.set("train_budget_s", "0");
  // JEPA's losses count from the second step on, by a weight that hardly moves.
  config.set("iterations", "1000000000");
  config.set("jepa_phase1_frac", "0");
  return config;
}

}  // namespace

std::vector<Figure> bench_optimiser(const Ctx& ctx, double budget_s, int64_t, int64_t) {
  const Config config = config_of("byte260-jepa", 4096);
  Model model(config, ctx, 0);
  Averages averages(config, ctx, model.params());
  averages.start(model.params());
  Optimizer optimizer(config, ctx, model.params(), &averages);
  const double n = static_cast<double>(model.params().numel());
  copy_tensor(ctx, model.params().values(), model.params().grads());  // gradients that are not zero
  std::function<void()> step;
  if (FusedStep* const fused = optimizer.fused()) {
    fused->prepare(1, 1, 0.95);
    fused->enqueue({});
    const Recording recording(ctx, [fused] { fused->enqueue({}); });
    step = [recording] { recording.replay(); };
  } else {
    step = [&] { optimizer.step(1, optimizer.gradient_norm(), 1, 0.95, averages); };
  }
  Figure f;
  f.group = "optimiser";
  f.what = words("clip, Muon, Adam, average:", static_cast<double>(static_cast<int64_t>(n / 1e5)) / 10,
                 "M parameters of byte260-jepa");
  f.flops = step_flops(model, 1, 1).optimiser;
  f.bytes = (8.0 * 4 + (ctx.dtype == DType::bf16 ? 2 : 0)) * n;  // weights, gradients, momentum, averages; operands
  time_calls(ctx, step, budget_s, f);
  return {std::move(f)};
}

std::vector<Figure> bench_model(const Ctx& ctx, double budget_s, int64_t B, int64_t T) {
  std::vector<Figure> figures;
  for (const char* preset : {"byte260-jepa", "byte256"}) {
    const Config config = config_of(preset, T);
    const double error = gradient_error(config, ctx, kCheckT);
    const size_t before = device_bytes_taken(ctx);
    Model model(config, ctx, 0);
    const std::vector<int32_t> ids = random_ids(config, "ids", B * T), targets = random_ids(config, "targets", B * T);
    const StepFlops flops = step_flops(model, B, T);
    const auto forward = [&] { model.loss(ids, targets, B, T, kLambda); };
    const auto both = [&] {
      model.loss(ids, targets, B, T, kLambda);
      model.backward(1e-3);
    };
    model.zero_gradients();
    Figure f;
    f.group = "model";
    f.what = words(preset, "forward");
    f.ids = static_cast<double>(B * T);
    f.flops = flops.forward;
    f.tolerance = gradient_tolerance(ctx);
    time_calls(ctx, forward, budget_s, f);
    f.memory_bytes = static_cast<double>(device_bytes_taken(ctx) - std::min(before, device_bytes_taken(ctx)));
    figures.push_back(f);
    f.what = words(preset, "forward and backward");
    f.flops = flops.forward + flops.backward;
    f.error = error;
    f.checked_at = checked_gradient();
    time_calls(ctx, both, budget_s, f);
    figures.push_back(std::move(f));
  }
  return figures;
}

std::vector<Figure> bench_steps(const Ctx& ctx, double budget_s, int64_t B, int64_t T) {
  const bool gpu = ctx.device != Device::cpu;  // on the CPU one step of one model: it takes seconds
  std::vector<Figure> figures;
  struct Size {
    int64_t rows, micro_batches;
  };
  std::vector<const char*> presets{"byte260-jepa"};
  std::vector<Size> sizes{{B, 1}};
  if (gpu) presets.push_back("byte256"), sizes.insert(sizes.end(), {{8 * B / 3, 2}, {8 * B, 8}});
  for (const char* preset : presets) {
    const double error = gradient_error(config_of(preset, T), ctx, kCheckT);
    for (const Size& size : sizes) {
      const int64_t rows = std::max<int64_t>(size.rows / size.micro_batches, 1) * size.micro_batches;
      const Config config = config_of(preset, T);
      const size_t before = device_bytes_taken(ctx);
      const auto model = std::make_shared<Model>(config, ctx, 0);
      Trainer trainer(config, model, nullptr);
      const std::vector<int32_t> ids = random_ids(config, "ids", rows * T),
                                 targets = random_ids(config, "targets", rows * T);
      const auto step = [&] { trainer.step_on(ids, targets, rows, T, size.micro_batches); };
      // The first weighs JEPA's losses by 0; on a GPU later ones are met, then recorded.
      for (int i = 0; gpu && i < 3; ++i) step();
      const StepFlops flops = step_flops(*model, rows, T);
      Figure f;
      f.group = "step";
      f.what = words(preset, "step of", rows * T, "ids in", size.micro_batches);
      f.ids = static_cast<double>(rows * T);
      f.flops = flops.forward + flops.backward + flops.optimiser;
      f.tolerance = gradient_tolerance(ctx);
      f.error = error;
      f.checked_at = checked_gradient();
      time_calls(ctx, step, budget_s, f);
      f.memory_bytes = static_cast<double>(device_bytes_taken(ctx) - std::min(before, device_bytes_taken(ctx)));
      figures.push_back(std::move(f));
    }
  }
  return figures;
}

}  // namespace bg::bench
