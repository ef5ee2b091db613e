// Whole models on the GPU: the same losses, gradients and scores as on the CPU, and clear words when memory runs out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "infer/evaluate.h"
#include "tensor/transfer.h"
#include "testing/op_case.h"
#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

std::unique_ptr<Model> on_gpu(const TinyModel& tiny, const Model& cpu, DType dtype) {
  auto model = std::make_unique<Model>(tiny.config, make_ctx(Device::cuda, dtype, 2), 1);
  for (const ParamSpec& s : model->params().specs())
    upload(model->ctx(), download(cpu.ctx(), ParamTable::view(*cpu.params().find(s.name), cpu.params().values())),
           ParamTable::view(s, model->params().values()));
  model->params().refresh_operands(model->ctx());
  return model;
}

double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    off += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(off / (size + 1e-30));
}

TEST(ModelOnGpu, EveryShapeOfModelHasTheLossesGradientsAndScoresOfTheCpu) {
  BG_NEEDS_GPU();
  for (const TinyModel& tiny : tiny_models()) {
    SCOPED_TRACE(tiny.name);
    const auto cpu = random_model(tiny.config, DType::f64, 2);
    const auto gpu = on_gpu(tiny, *cpu, DType::f32);
    const double lambda = 0.3;
    std::vector<double> nll[2];
    Losses losses[2];
    Model* const models[] = {cpu.get(), gpu.get()};
    for (int i = 0; i < 2; ++i) {
      Model& m = *models[i];
      losses[i] = m.loss(tiny.ids, tiny.targets, tiny.B, tiny.T, lambda);
      m.zero_gradients();
      m.backward();
      nll[i].resize(tiny.ids.size());
      m.nll(tiny.ids, tiny.targets, tiny.B, tiny.T, nll[i]);
    }
    EXPECT_NEAR(losses[1].total, losses[0].total, tolerance::kModelFloat32 * std::abs(losses[0].total));
    EXPECT_LE(relative(nll[1], nll[0]), tolerance::kModelFloat32);
    EXPECT_LE(relative(download(gpu->ctx(), gpu->params().grads()), download(cpu->ctx(), cpu->params().grads())),
              tolerance::kModelFloat32);
  }
}

TEST(ModelOnGpu, TooLargeABatchNamesTheRequestAndWhatWouldFit) {
  BG_NEEDS_GPU();
  const Config config = Config::preset("byte260-jepa");
  Model model(config, make_ctx(Device::cuda, DType::bf16, 2), 0);
  const int64_t B = 600, T = 4096;
  const std::vector<int32_t> ids(static_cast<size_t>(B * T), 65);
  try {
    model.loss(ids, ids, B, T, 0);
    FAIL() << "600 rows of 4096 ids fit";
  } catch (const SystemError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("out of memory: asked for"));
    EXPECT_THAT(error.what(), testing::HasSubstr("activations of 600 rows of 4096 ids take"));
    EXPECT_THAT(error.what(), testing::HasSubstr("rows would fit (micro_batch_ids ="));
  }
  const std::span<const int32_t> few(ids.data(), static_cast<size_t>(T));
  EXPECT_TRUE(std::isfinite(model.loss(few, few, 1, T, 0).ce)) << "the model is of no use after the refusal";
}

}  // namespace
}  // namespace bg
