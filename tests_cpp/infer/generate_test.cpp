#include "infer/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "testing/tiny_models.h"

namespace bg {
namespace {

TEST(Generate, DependsOnTheSeedAlone) {
  for (const char* preset : {"byte260-jepa", "byte256", "byte256-patch"}) {
    const Config config = tiny_config(preset, "");
    auto model = random_model(config, DType::f32), again = random_model(config, DType::f32, 3);
    const std::string text = generate(*model, "ab", 40, 1.0, 5);
    EXPECT_EQ(text.size(), 40u);
    EXPECT_EQ(generate(*again, "ab", 40, 1.0, 5), text);
    EXPECT_NE(generate(*model, "ab", 40, 1.0, 6), text);
    EXPECT_EQ(generate(*model, "ab", 17, 1.0, 5), text.substr(0, 17)) << "n only decides where it ends";
  }
}

TEST(Generate, AtTemperatureZeroTakesTheLikeliestByteOfTheWindow) {
  for (const char* preset : {"byte260", "byte256"}) {
    const Config config = tiny_config(preset, "");
    auto model = random_model(config, DType::f64);
    const std::string prompt = "hello";
    std::vector<int32_t> ids;
    if (config.bos_id() >= 0) ids.push_back(static_cast<int32_t>(config.bos_id()));
    for (char c : prompt) ids.push_back(config.vocab().id_of(static_cast<uint8_t>(c)));
    const int64_t n = config.seq_len - static_cast<int64_t>(ids.size());  // until the window is full
    std::string expected;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t T = static_cast<int64_t>(ids.size());
      const Tensor logits = model->logits(ids, 1, T);
      const double* row = logits.ptr<double>() + (T - 1) * config.vocab_size() + config.byte_offset();
      expected.push_back(static_cast<char>(std::max_element(row, row + 256) - row));
      ids.push_back(config.vocab().id_of(static_cast<uint8_t>(expected.back())));
    }
    EXPECT_EQ(generate(*model, prompt, n, 0, 1), expected);
    EXPECT_EQ(generate(*model, prompt, n, 0, 2), expected) << "no draw, no seed";
  }
}

TEST(Generate, DrawsAsOftenAsTheModelSays) {
  // One position, so every draw is from the same distribution: compare frequencies with it.
  const Config config = tiny_config("byte256", "num_layers = 1");
  auto model = random_model(config, DType::f64);
  const std::vector<int32_t> ids = {65};
  const Tensor logits = model->logits(ids, 1, 1);
  std::vector<double> p(logits.ptr<double>(), logits.ptr<double>() + 256);
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v);
  const int draws = 1500;
  std::vector<double> drawn(256);
  for (int seed = 0; seed < draws; ++seed)
    drawn[static_cast<uint8_t>(generate(*model, "A", 1, 1.0, static_cast<uint64_t>(seed))[0])] += 1.0 / draws;
  double below = 0, expected = 0, worst = 0;  // Kolmogorov's distance; above 1.95 / sqrt(draws) once in a thousand
  for (int byte = 0; byte < 256; ++byte) {
    below += drawn[byte];
    expected += p[byte] / sum;
    worst = std::max(worst, std::abs(below - expected));
  }
  EXPECT_LT(worst, 1.95 / std::sqrt(draws));
}

TEST(Generate, NeverWritesASpecialId) {
  // Special ids made by far the likeliest: bytes come out all the same.
  const Config config = tiny_config("byte260", "tie_embeddings = false\nlogit_softcap = 0.0");
  auto model = random_model(config, DType::f32);
  const Tensor head = ParamTable::view(*model->params().find("lm_head.weight"), model->params().values());
  for (int64_t i = 0; i < 4 * config.model_dim; ++i) head.ptr<float>()[i] *= 100;
  for (double temperature : {0.0, 1.0, 10.0}) EXPECT_EQ(generate(*model, "", 30, temperature, 3).size(), 30u);
}

TEST(Generate, TakesPromptsLongerThanTheWindowAndOutgrowsIt) {
  const Config config = tiny_config("byte260", "");
  auto model = random_model(config, DType::f32);
  EXPECT_EQ(generate(*model, std::string(100, 'x'), 30, 1.0, 3).size(), 30u);
  EXPECT_EQ(generate(*model, "", 50, 1.0, 3).size(), 50u);
  auto patched = random_model(tiny_config("byte256-patch", "patch_size = 3"), DType::f32);
  EXPECT_EQ(generate(*patched, "x", 40, 1.0, 3).size(), 40u);
}

TEST(Generate, NothingIsNothing) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  EXPECT_EQ(generate(*model, "abc", 0, 1.0, 3), "");
}

TEST(Generate, EmitSeesEachByteAndMayStop) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  std::string seen;
  const std::string text = generate(*model, "abc", 20, 1.0, 3, [&](uint8_t byte) {
    seen.push_back(static_cast<char>(byte));
    return seen.size() < 5;
  });
  EXPECT_EQ(text.size(), 5u);
  EXPECT_EQ(seen, text);
}

TEST(Generate, RefusesWhatItCannotStartFrom) {
  auto model = random_model(tiny_config("byte256", ""), DType::f32);
  EXPECT_THROW(generate(*model, "", 5, 1.0, 3), InvalidArgument);
  EXPECT_THROW(generate(*model, "a", -1, 1.0, 3), InvalidArgument);
  EXPECT_THROW(generate(*model, "a", 5, -0.1, 3), InvalidArgument);
  EXPECT_THROW(generate(*model, "a", 5, kPoison, 3), InvalidArgument);
}

TEST(Generate, StopsAtNumbersThatAreNone) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Tensor gain = ParamTable::view(*model->params().find("blocks.0.attn.q_gain"), model->params().values());
  gain.ptr<float>()[0] = static_cast<float>(kPoison);
  EXPECT_THROW(generate(*model, "ab", 5, 1.0, 3), NumericsError);
}

}  // namespace
}  // namespace bg
