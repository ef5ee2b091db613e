// Decoding on the GPU: the logits of whole windows there and on the CPU, steps that are recordings, rows that do not
// meet. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <cmath>

#include "infer/generate.h"
#include "tensor/transfer.h"
#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

std::unique_ptr<Model> on_gpu(const Config& config, const Model& cpu, DType dtype) {
  auto model = std::make_unique<Model>(config, make_ctx(Device::cuda, dtype, 2), 1);
  for (const ParamSpec& s : model->params().specs())
    upload(model->ctx(), download(cpu.ctx(), ParamTable::view(*cpu.params().find(s.name), cpu.params().values())),
           ParamTable::view(s, model->params().values()));
  model->params().refresh_operands(model->ctx());
  return model;
}

// Difference of the logits of two passes over equal ids, as a share of those of the second.
struct Distance {
  double off = 0, size = 0;
  void add(const std::vector<double>& got, const std::vector<double>& want) {
    for (size_t i = 0; i < want.size(); ++i) {
      off += (got[i] - want[i]) * (got[i] - want[i]);
      size += want[i] * want[i];
    }
  }
  double value() const { return std::isfinite(off) ? std::sqrt(off / (size + 1e-30)) : HUGE_VAL; }
};

// Two rows, the second three positions behind the first, read by steps from position 5; against logits() of `whole`.
Distance stepwise(Model& model, Model& whole, int64_t T) {
  const Config& c = model.config();
  const int64_t V = c.vocab_size();
  std::vector<std::vector<int32_t>> ids;
  std::vector<std::vector<double>> want;
  Decoder decoder(model, 2, T);
  for (int64_t b = 0; b < 2; ++b) {
    const Owned random = Owned::random_ids({T}, 4, 255, words("ids", b));
    ids.emplace_back(random.view().ptr<int32_t>(), random.view().ptr<int32_t>() + T);
    const Tensor logits = whole.logits(ids.back(), 1, T);
    want.push_back(download(whole.ctx(), logits.reshape({logits.numel()})));
  }
  const auto expected = [&](int64_t b, int64_t t) {
    const auto first = want[static_cast<size_t>(b)].begin() + t * V;
    return std::vector<double>(first, first + V);
  };
  Distance distance;
  for (int64_t b = 0; b < 2; ++b)
    distance.add(download(model.ctx(), decoder.prompt(b, ids[static_cast<size_t>(b)], 5)), expected(b, 4));
  for (int64_t t = 5; t < T + 3; ++t) {
    std::vector<NextId> next(2);
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t at = t - 3 * b;
      if (at < 5 || at >= T) continue;  // rests
      NextId& n = next[static_cast<size_t>(b)];
      for (int64_t i = 0; i < 3; ++i) n.ids[i] = ids[static_cast<size_t>(b)][static_cast<size_t>(at - 2 + i)];
      n.position = static_cast<int32_t>(at);
      if (c.jepa_chunk_size > 0) n.inject_end = static_cast<int32_t>(T / c.jepa_chunk_size * c.jepa_chunk_size);
    }
    const Tensor out = decoder.step(next);  // float32 on the host
    for (int64_t b = 0; b < 2; ++b)
      if (const int64_t at = next[static_cast<size_t>(b)].position; at >= 0)
        distance.add(std::vector<double>(out.ptr<float>() + b * V, out.ptr<float>() + (b + 1) * V), expected(b, at));
  }
  return distance;
}

TEST(GenerateOnGpu, StepsHaveTheLogitsOfTheWholeWindow) {
  BG_NEEDS_GPU();
  for (const TinyModel& tiny : tiny_models()) {
    if (tiny.config.patch_size > 1) continue;
    SCOPED_TRACE(tiny.name);
    const auto cpu = random_model(tiny.config, DType::f64, 2);
    const auto gpu = on_gpu(tiny.config, *cpu, DType::f32);
    EXPECT_LE(stepwise(*gpu, *cpu, tiny.config.seq_len).value(), tolerance::kModelFloat32);
    EXPECT_LE(stepwise(*gpu, *gpu, tiny.config.seq_len).value(), tolerance::kModelFloat32);
  }
}

TEST(GenerateOnGpu, StepsOverLongWindowsOfTrainingsShapesAgree) {
  BG_NEEDS_GPU();
  Config config = Config::preset("byte260-jepa");
  config.set("num_layers", "4");
  config.set("seq_len", "700");
  config.set("attn_windows", "\"0,200\"");
  const auto cpu = random_model(config, DType::f32, 2);
  const auto single = on_gpu(config, *cpu, DType::f32), half = on_gpu(config, *cpu, DType::bf16);
  EXPECT_LE(stepwise(*single, *cpu, 700).value(), tolerance::kModelFloat32);
  EXPECT_LE(stepwise(*half, *half, 700).value(), tolerance::kDecodeBf16);
}

TEST(GenerateOnGpu, BytesOfFloat32AreThoseOfTheUncachedPath) {
  BG_NEEDS_GPU();
  const std::vector<std::string> prompts = {"hello", "a prompt that is longer than its window is", "x"};
  for (const char* preset : {"byte260-jepa", "byte260", "byte256", "byte256-patch"}) {
    SCOPED_TRACE(preset);
    const Config config = tiny_config(preset, "seq_len = 60");
    const auto cpu = random_model(config, DType::f32);
    const auto gpu = on_gpu(config, *cpu, DType::f32);
    Sampling s;
    s.seed = 5;
    const std::vector<std::string> cached = generate(*gpu, prompts, 100, s);
    EXPECT_EQ(generate(*gpu, prompts, 100, s), cached) << "other bytes when repeated";
    EXPECT_EQ(generate(*cpu, prompts, 100, s), cached);
    s.cache = false;
    EXPECT_EQ(generate(*gpu, prompts, 100, s), cached);
  }
}

TEST(GenerateOnGpu, OtherUsesOfTheModelDoNotSpoilTheRecording) {
  BG_NEEDS_GPU();
  const TinyModel tiny = tiny_model("byte260-jepa", "", 2, 12);
  const auto cpu = random_model(tiny.config, DType::f32);
  const auto gpu = on_gpu(tiny.config, *cpu, DType::f32);
  const std::vector<std::string> prompts = {"ab", "cdef"};
  Sampling s;
  const std::vector<std::string> expected = generate(*gpu, prompts, 30, s);
  Generation run(*gpu, prompts, 30, s);
  for (int i = 0; !run.advance().empty(); ++i) {
    if (i % 3 == 0) gpu->logits(tiny.ids, tiny.B, tiny.T);
    if (i % 3 == 1) gpu->loss(tiny.ids, tiny.targets, tiny.B, tiny.T, 0.1);
  }
  EXPECT_EQ(run.text(0), expected[0]);
  EXPECT_EQ(run.text(1), expected[1]);
}

}  // namespace
}  // namespace bg
