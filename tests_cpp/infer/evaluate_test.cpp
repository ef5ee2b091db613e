#include "infer/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

std::vector<int32_t> stream_of(const Config& config, int64_t n) {
  Owned ids = Owned::random_ids({n}, 0, config.vocab_size() - 1, "stream");
  if (config.bos_id() >= 0)
    for (int64_t i = 0; i < n; i += 7) ids.view().ptr<int32_t>()[i] = static_cast<int32_t>(config.bos_id());
  return {ids.view().ptr<int32_t>(), ids.view().ptr<int32_t>() + n};
}

// Window by window, each from its logits; a target belongs to the first window that contains it.
std::vector<double> naive(Model& model, const std::vector<int32_t>& stream, int64_t window, int64_t stride) {
  const int64_t M = static_cast<int64_t>(stream.size()), V = model.config().vocab_size(), K = model.config().patch_size;
  std::vector<double> nats(static_cast<size_t>(M - 1), -1);
  for (int64_t start = 0; start < M - 1; start += stride) {
    const int64_t length = std::min(window, M - 1 - start);
    std::vector<int32_t> ids(stream.begin() + start, stream.begin() + start + length);
    ids.resize(static_cast<size_t>((length + K - 1) / K * K), 0);
    const Tensor logits = model.logits(ids, 1, static_cast<int64_t>(ids.size()));
    for (int64_t t = 0; t < length; ++t) {
      if (nats[start + t] >= 0) continue;
      const double* row = logits.ptr<double>() + t * V;
      double sum = 0;
      for (int64_t v = 0; v < V; ++v) sum += std::exp(row[v]);
      nats[start + t] = std::log(sum) - row[stream[start + t + 1]];
    }
  }
  return nats;
}

TEST(Evaluation, PartsShareOutTheTargetsAndScoreThemLikeTheWhole) {
  const Config config = tiny_config("byte260-jepa", "num_layers = 2");
  auto model = random_model(config, DType::f64);
  for (const int64_t length : {2, 13, 37, 50})
    for (const auto& [window, stride] : {std::pair{12, 12}, {12, 5}, {12, 1}, {40, 40}})
      for (const int64_t parts : {1, 2, 3, 60}) {
        SCOPED_TRACE(words("length", length, "window", window, "stride", stride, "parts", parts));
        const std::vector<int32_t> stream = stream_of(config, length);
        Evaluation whole(*model, stream, window, stride);
        while (whole.advance()) continue;
        int64_t next = 0, bytes = 0;
        for (int64_t part = 0; part < parts; ++part) {
          Evaluation evaluation(*model, stream, window, stride, part, parts);
          ASSERT_EQ(evaluation.first(), next);
          next = evaluation.last();
          while (evaluation.advance()) continue;
          ASSERT_EQ(evaluation.score().targets, next - evaluation.first());
          bytes += evaluation.score().bytes;
          for (int64_t i = evaluation.first(); i < next; ++i) ASSERT_EQ(evaluation.nll()[i], whole.nll()[i]) << i;
        }
        EXPECT_EQ(next, length - 1);
        EXPECT_EQ(bytes, whole.score().bytes);
      }
  EXPECT_THROW(Evaluation(*model, stream_of(config, 20), 12, 12, 2, 2), InvalidArgument);
}

TEST(Evaluation, ScoresEachTargetOnceAndLikeOneWindowAtATime) {
  for (const Config& config :
       {tiny_config("byte260-jepa", "num_layers = 2"), tiny_config("byte256", "num_layers = 1"),
        tiny_config("byte256-patch", "num_layers = 1"), tiny_config("byte260", "num_layers = 1\ndoc_mask = true")}) {
    auto model = random_model(config, DType::f64);
    for (int64_t length : {2, 3, 8, 12, 13, 14, 37, 50})
      for (const auto& [window, stride] : {std::pair{12, 12}, {12, 5}, {12, 1}, {12, 11}, {6, 4}, {2, 1}, {40, 40}}) {
        SCOPED_TRACE(words(config.family, "length", length, "window", window, "stride", stride));
        const std::vector<int32_t> stream = stream_of(config, length);
        const std::vector<double> expected = naive(*model, stream, window, stride);
        Evaluation evaluation(*model, stream, window, stride);
        int64_t targets = 0;
        while (evaluation.advance()) {
          ASSERT_GT(evaluation.score().targets, targets) << "every call moves on";
          targets = evaluation.score().targets;
        }
        ASSERT_EQ(targets, length - 1);
        ASSERT_EQ(evaluation.targets(), length - 1);
        double nats = 0;
        int64_t bytes = 0;
        for (int64_t i = 0; i < length - 1; ++i) {
          ASSERT_NEAR(evaluation.nll()[i], expected[i], 1e-11) << "target " << i;
          nats += expected[i];
          bytes += stream[i + 1] >= config.byte_offset();
        }
        EXPECT_NEAR(evaluation.score().nats, nats, 1e-10);
        EXPECT_EQ(evaluation.score().bytes, bytes) << "special ids are no bytes";
        if (bytes > 0) {
          EXPECT_NEAR(evaluation.score().bpb(), nats / std::log(2.0) / static_cast<double>(bytes), 1e-10);
        }
        EXPECT_FALSE(evaluation.advance());
      }
  }
}

TEST(Evaluation, WindowsThatFillABatchGiveTheSameBitsAsOneByOne) {
  const Config config = tiny_config("byte260", "");
  auto model = random_model(config, DType::f32, 2);
  const std::vector<int32_t> stream = stream_of(config, 12 * 1500 + 5);  // more rows than one call takes
  Evaluation evaluation(*model, stream, 12, 12);
  int calls = 0;
  while (evaluation.advance()) ++calls;
  EXPECT_GT(calls, 2);
  for (int64_t start : {int64_t{0}, int64_t{12 * 700}, int64_t{12 * 1499}, int64_t{12 * 1500}}) {
    const std::vector<int32_t> part(
        stream.begin() + start, stream.begin() + std::min<int64_t>(start + 13, static_cast<int64_t>(stream.size())));
    Evaluation alone(*model, part, 12, 12);
    while (alone.advance()) {
    }
    for (size_t i = 0; i + 1 < part.size(); ++i) EXPECT_EQ(alone.nll()[i], evaluation.nll()[start + i]);
  }
}

TEST(Evaluation, OfUniformLogitsIsTheEntropyOfTheVocabulary) {
  for (const char* preset : {"byte260", "byte256"}) {
    const Config config = tiny_config(preset, "");
    auto model = random_model(config, DType::f32);
    const Tensor table = ParamTable::view(*model->params().find("tok_emb.weight"), model->params().values());
    std::fill_n(table.ptr<float>(), table.numel(), 0.0f);
    const std::vector<int32_t> stream = stream_of(config, 100);
    Evaluation evaluation(*model, stream, 12, 6);
    while (evaluation.advance()) {
    }
    const Score& s = evaluation.score();
    EXPECT_NEAR(s.bpb(), std::log2(static_cast<double>(config.vocab_size())) * 99 / static_cast<double>(s.bytes),
                1e-12);
    if (config.bos_id() < 0) {
      EXPECT_EQ(s.bytes, 99);
      EXPECT_NEAR(s.bpb(), 8, 1e-12);
    } else {
      EXPECT_LT(s.bytes, 99);
    }
  }
}

TEST(Evaluation, WithoutAnyByteHasNoBitsPerByte) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const std::vector<int32_t> stream = {1, 1, 1};
  Evaluation evaluation(*model, stream, 12, 12);
  while (evaluation.advance()) {
  }
  EXPECT_EQ(evaluation.score().targets, 2);
  EXPECT_TRUE(std::isnan(evaluation.score().bpb()));
}

TEST(Evaluation, RefusesStreamsAndWindowsThatMakeNoSense) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const std::vector<int32_t> one = {5}, foreign = {5, 6, 260}, good = {5, 6, 7};
  EXPECT_THROW(Evaluation(*model, one, 12, 12), InvalidArgument);
  EXPECT_THROW(Evaluation(*model, foreign, 12, 12), InvalidArgument);
  EXPECT_THROW(Evaluation(*model, good, 12, 13), InvalidArgument);
  EXPECT_THROW(Evaluation(*model, good, 12, 0), InvalidArgument);
  EXPECT_THROW(Evaluation(*model, good, 0, 0), InvalidArgument);
  auto patched = random_model(tiny_config("byte256-patch", ""), DType::f32);
  EXPECT_THROW(Evaluation(*patched, good, 3, 1), InvalidArgument);
}

TEST(Evaluation, StopsAtNumbersThatAreNone) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Tensor gain = ParamTable::view(*model->params().find("blocks.0.attn.q_gain"), model->params().values());
  gain.ptr<float>()[0] = static_cast<float>(kPoison);
  const std::vector<int32_t> stream = {5, 6, 7};
  Evaluation evaluation(*model, stream, 12, 12);
  EXPECT_THROW(evaluation.advance(), NumericsError);
}

}  // namespace
}  // namespace bg
