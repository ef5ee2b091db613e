// What holds for every model: known losses, causality, repeatability, independence of threads, batch and history.
#include "model/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

constexpr double kLambda = 0.3;

// A model large enough that rows, columns and heads are split over several tasks.
TinyModel medium() {
  return tiny_model("byte260-jepa",
                    "model_dim = 64\nnum_heads = 4\nnum_kv_heads = 2\nnum_layers = 2\nrope_dims = 8\n"
                    "jepa_chunk_size = 8\nbigram_vocab_size = 300",
                    3, 70);
}

// Sizes at which products are split into several blocks of rows and packed once for all of them.
TinyModel large() {
  return tiny_model("byte260",
                    "model_dim = 256\nnum_heads = 4\nnum_kv_heads = 2\nnum_layers = 1\nrope_dims = 16\n"
                    "bigram_vocab_size = 300\nbigram_dim = 32",
                    3, 200);
}

std::string row_bits(Tensor logits, int64_t b, int64_t from, int64_t to) {
  return bits_of(logits.slice(0, b, b + 1).slice(1, from, to));
}

struct Step {
  Losses losses;
  std::string gradients;
};
Step step(Model& model, const TinyModel& m) {
  model.zero_gradients();
  Step s;
  s.losses = model.loss(m.ids, m.targets, m.B, m.T, kLambda);
  model.backward();
  s.gradients = bits_of(model.params().grads());
  return s;
}
void expect_equal(const Step& a, const Step& b) {
  EXPECT_EQ(a.losses.ce, b.losses.ce);
  EXPECT_EQ(a.losses.jepa_pred, b.losses.jepa_pred);
  EXPECT_EQ(a.losses.jepa_sigreg, b.losses.jepa_sigreg);
  EXPECT_EQ(a.losses.latent, b.losses.latent);
  EXPECT_EQ(a.losses.total, b.losses.total);
  EXPECT_TRUE(a.gradients == b.gradients) << "gradients differ";
}

void set_all(Model& model, const char* name, double value) {
  const Tensor t = ParamTable::view(*model.params().find(name), model.params().values());
  BG_FLOATS(t.dtype(), F, std::fill_n(t.ptr<F>(), t.numel(), static_cast<F>(value)));
}

TEST(Model, UniformLogitsCostLnV) {
  for (const TinyModel& m : tiny_models())
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name);
      auto model = random_model(m.config, dtype);
      set_all(*model,
              m.config.tie_embeddings   ? "tok_emb.weight"
              : m.config.patch_size > 1 ? "intra_decoder.lm_head.weight"
                                        : "lm_head.weight",
              0);
      const double expected = std::log(static_cast<double>(m.config.vocab_size()));
      EXPECT_NEAR(model->loss(m.ids, m.targets, m.B, m.T, 0).ce, expected, 10 * tolerance::kExact);
      std::vector<double> nll(m.ids.size());
      model->nll(m.ids, m.targets, m.B, m.T, nll);
      for (double v : nll) EXPECT_NEAR(v, expected, 10 * tolerance::kExact);
    }
}

TEST(Model, TotalIsTheWeightedSumOfItsParts) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    const Losses l = random_model(m.config, DType::f64)->loss(m.ids, m.targets, m.B, m.T, kLambda);
    const double expected =
        l.ce + kLambda * (l.jepa_pred + m.config.jepa_sigreg_weight * l.jepa_sigreg) + m.config.jepa_weight * l.latent;
    EXPECT_NEAR(l.total, expected, tolerance::kExact * std::abs(expected));
    EXPECT_EQ(l.jepa_pred > 0, m.config.jepa_chunk_size > 0 && m.T >= m.config.jepa_chunk_size);
    EXPECT_EQ(l.latent > 0, m.config.jepa_pred_k > 0);
  }
}

TEST(Model, CrossEntropyIsThatOfItsLogits) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    auto model = random_model(m.config, DType::f64);
    const Tensor logits = model->logits(m.ids, m.B, m.T);
    const int64_t V = m.config.vocab_size();
    ASSERT_TRUE(logits.shape() == Shape({m.B, m.T, V}));
    double sum = 0;
    for (int64_t n = 0; n < m.B * m.T; ++n) {
      const double* row = logits.ptr<double>() + n * V;
      double exponentials = 0;
      for (int64_t v = 0; v < V; ++v) exponentials += std::exp(row[v]);
      sum += std::log(exponentials) - row[m.targets[n]];
    }
    EXPECT_NEAR(model->loss(m.ids, m.targets, m.B, m.T, 0).ce, sum / static_cast<double>(m.B * m.T), 1e-12);
  }
}

// Changes id t of every row, and everything from t on: logits before t keep their bits, those at t do not.
TEST(Model, AnIdChangesNoEarlierLogit) {
  std::vector<TinyModel> models = tiny_models();
  models.push_back(medium());
  for (const TinyModel& m : models)
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name + " " + name_of(dtype));
      auto model = random_model(m.config, dtype, 2);
      const int64_t V = m.config.vocab_size();
      const Owned before = [&] {
        const Tensor l = model->logits(m.ids, m.B, m.T);
        Owned copy(l.dtype(), l.shape());
        std::memcpy(copy.view().data(), l.data(), l.size_bytes());
        return copy;
      }();
      for (int64_t t : {int64_t{0}, int64_t{1}, int64_t{2}, m.T / 2, m.T - 2, m.T - 1}) {
        if (t < 0 || t >= m.T) continue;
        for (bool suffix : {false, true}) {
          std::vector<int32_t> ids = m.ids;
          for (int64_t b = 0; b < m.B; ++b)
            for (int64_t s = t; s < (suffix ? m.T : t + 1); ++s)
              ids[b * m.T + s] = static_cast<int32_t>((ids[b * m.T + s] + 57 + 3 * s) % V);
          const Tensor after = model->logits(ids, m.B, m.T);
          for (int64_t b = 0; b < m.B; ++b) {
            ASSERT_TRUE(row_bits(after, b, 0, t) == row_bits(before, b, 0, t)) << "t = " << t << " row " << b;
            ASSERT_FALSE(row_bits(after, b, t, t + 1) == row_bits(before, b, t, t + 1)) << "t = " << t;
          }
        }
      }
    }
}

TEST(Model, DocumentsDoNotSeeOneAnother) {
  // The smear, the bigram and JEPA look over a document's start by design: without them nothing crosses it.
  const Config config = tiny_config("byte260", "doc_mask = true\nsmear = false\nbigram_vocab_size = 0");
  const Config open = tiny_config("byte260", "smear = false\nbigram_vocab_size = 0");
  const int64_t T = 9, start = 4;
  std::vector<int32_t> ids = {1, 50, 51, 52, 1, 60, 61, 62, 63}, other = {9, 70, 1, 72, 1, 60, 61, 62, 63};
  for (DType dtype : {DType::f32, DType::f64}) {
    auto closed = random_model(config, dtype), seeing = random_model(open, dtype);
    const std::string a = row_bits(closed->logits(ids, 1, T), 0, start, T),
                      b = row_bits(closed->logits(other, 1, T), 0, start, T),
                      c = row_bits(seeing->logits(ids, 1, T), 0, start, T),
                      d = row_bits(seeing->logits(other, 1, T), 0, start, T);
    EXPECT_TRUE(a == b);
    EXPECT_FALSE(c == d) << "without doc_mask earlier documents are seen";
  }
}

TEST(Model, AWindowHidesWhatLiesBeforeIt) {
  const Config config =
      tiny_config("byte260", "num_layers = 1\nattn_windows = \"3\"\nsmear = false\nbigram_vocab_size = 0");
  auto model = random_model(config, DType::f64);
  std::vector<int32_t> ids = {10, 11, 12, 13, 14, 15}, other = ids;
  other[2] = 99;
  const std::string before = row_bits(model->logits(ids, 1, 6), 0, 5, 6);
  EXPECT_TRUE(row_bits(model->logits(other, 1, 6), 0, 5, 6) == before) << "id 2 lies outside the window of 5";
  other = ids;
  other[3] = 99;
  EXPECT_FALSE(row_bits(model->logits(other, 1, 6), 0, 5, 6) == before) << "id 3 lies inside it";
}

TEST(Model, EqualCallsGiveEqualBits) {
  for (const TinyModel& m : tiny_models())
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name);
      auto model = random_model(m.config, dtype, 2);
      const Step first = step(*model, m), second = step(*model, m);
      expect_equal(first, second);
      expect_equal(first, step(*random_model(m.config, dtype, 2), m));
    }
}

TEST(Model, BitsDoNotDependOnThreads) {
  std::vector<TinyModel> models = tiny_models();
  models.push_back(medium());
  models.push_back(large());
  for (const TinyModel& m : models)
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name);
      auto one = random_model(m.config, dtype, 1);
      const Step expected = step(*one, m);
      const std::string logits = bits_of(one->logits(m.ids, m.B, m.T));
      for (int threads : {2, 3, 5}) {
        auto model = random_model(m.config, dtype, threads);
        expect_equal(step(*model, m), expected);
        EXPECT_TRUE(bits_of(model->logits(m.ids, m.B, m.T)) == logits);
      }
    }
}

TEST(Model, ARowOfABatchGivesTheSameBitsAsAlone) {
  std::vector<TinyModel> models = tiny_models();
  models.push_back(medium());
  models.push_back(large());
  for (const TinyModel& m : models)
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name + " " + name_of(dtype));
      auto model = random_model(m.config, dtype, 2);
      const Tensor all = model->logits(m.ids, m.B, m.T);
      std::vector<std::string> rows;
      for (int64_t b = 0; b < m.B; ++b) rows.push_back(row_bits(all, b, 0, m.T));
      for (int64_t b = 0; b < m.B; ++b) {
        const std::vector<int32_t> ids(m.ids.begin() + b * m.T, m.ids.begin() + (b + 1) * m.T);
        EXPECT_TRUE(bits_of(model->logits(ids, 1, m.T)) == rows[b]) << "row " << b;
      }
    }
}

TEST(Model, GradientsOfABatchAreTheMeanOfItsRows) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    if (m.B == 1) continue;
    auto model = random_model(m.config, DType::f64);
    model->loss(m.ids, m.targets, m.B, m.T, 0);  // the JEPA losses compare rows with one another: left out
    model->backward();
    const std::vector<double> whole = gradients_of(*model);
    model->zero_gradients();
    for (int64_t b = 0; b < m.B; ++b) {
      model->loss(std::span(m.ids).subspan(b * m.T, m.T), std::span(m.targets).subspan(b * m.T, m.T), 1, m.T, 0);
      model->backward(1.0 / static_cast<double>(m.B));
    }
    const std::vector<double> parts = gradients_of(*model);
    double size = 0, error = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      size = std::max(size, std::abs(whole[i]));
      error = std::max(error, std::abs(whole[i] - parts[i]));
    }
    EXPECT_LE(error, tolerance::kReordered * size);
  }
}

TEST(Model, TrainingAndInferenceComputeTheSameNats) {
  std::vector<TinyModel> models = tiny_models();
  models.push_back(medium());
  models.push_back(large());
  for (const TinyModel& m : models)
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(m.name);
      auto model = random_model(m.config, dtype, 2);
      std::vector<double> nll(m.ids.size());
      model->nll(m.ids, m.targets, m.B, m.T, nll);
      const double mean = std::accumulate(nll.begin(), nll.end(), 0.0) / static_cast<double>(nll.size());
      EXPECT_EQ(model->loss(m.ids, m.targets, m.B, m.T, 0).ce, mean);
    }
}

TEST(Model, HistoryLeavesNoTrace) {
  for (const TinyModel& m : tiny_models()) {
    if (m.config.patch_size > 1 || m.T < 5) continue;
    SCOPED_TRACE(m.name);
    TinyModel small = m;
    small.B = 1;
    small.T = 4;
    small.ids.resize(4);
    small.targets.resize(4);
    const Step large_fresh = step(*random_model(m.config, DType::f32), m),
               small_fresh = step(*random_model(m.config, DType::f32), small);
    const std::string logits_fresh = bits_of(random_model(m.config, DType::f32)->logits(small.ids, 1, 4));
    auto model = random_model(m.config, DType::f32);
    for (int round = 0; round < 2; ++round) {
      expect_equal(step(*model, m), large_fresh);
      EXPECT_TRUE(bits_of(model->logits(small.ids, 1, 4)) == logits_fresh);
      expect_equal(step(*model, small), small_fresh);
      model->logits(m.ids, m.B, m.T);
      EXPECT_TRUE(bits_of(model->logits(small.ids, 1, 4)) == logits_fresh);
    }
  }
}

// Fills every activation and every gradient buffer with NaN, then expects what a fresh model gives: each element that
// is read was written before.
TEST(Model, ReadsNothingThatItDidNotWrite) {
  for (const TinyModel& m : tiny_models()) {
    SCOPED_TRACE(m.name);
    const Step expected = step(*random_model(m.config, DType::f64), m);
    const std::string logits = bits_of(random_model(m.config, DType::f64)->logits(m.ids, m.B, m.T));
    auto model = random_model(m.config, DType::f64);
    model->loss(m.ids, m.targets, m.B, m.T, kLambda);
    model->backward(kPoison);
    const Tensor values = model->params().values();
    const std::string kept = bits_of(values);
    for (const ParamSpec& s : model->params().specs()) set_all(*model, s.name.c_str(), kPoison);
    EXPECT_THROW(model->loss(m.ids, m.targets, m.B, m.T, kLambda), NumericsError);
    model->logits(m.ids, m.B, m.T);
    std::memcpy(values.data(), kept.data(), kept.size());
    EXPECT_TRUE(bits_of(model->logits(m.ids, m.B, m.T)) == logits);
    expect_equal(step(*model, m), expected);
  }
}

TEST(Model, Float32AgreesWithFloat64) {
  std::vector<TinyModel> models = tiny_models();
  models.push_back(medium());
  for (const TinyModel& m : models) {
    SCOPED_TRACE(m.name);
    auto narrow = random_model(m.config, DType::f32), wide = random_model(m.config, DType::f64);
    const Losses a = narrow->loss(m.ids, m.targets, m.B, m.T, kLambda),
                 b = wide->loss(m.ids, m.targets, m.B, m.T, kLambda);
    EXPECT_NEAR(a.total, b.total, tolerance::kModelFloat32 * b.total);
    narrow->backward();
    wide->backward();
    const std::vector<double> x = gradients_of(*narrow), y = gradients_of(*wide);
    double error = 0, size = 0;
    for (const ParamSpec& s : wide->params().specs())
      for (int64_t i = 0; i < s.shape.numel(); ++i) {
        const double gx = x[narrow->params().find(s.name)->offset + i], gy = y[s.offset + i];
        error += (gx - gy) * (gx - gy);
        size += gy * gy;
      }
    EXPECT_LE(std::sqrt(error / size), tolerance::kModelFloat32);
  }
}

// ---- errors

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  return "(no error)";
}
#define EXPECT_WORDS(statement, part) \
  EXPECT_NE(message_of([&] { statement; }).find(part), std::string::npos) << message_of([&] { statement; })

TEST(ModelErrors, NameTheRowAndPositionOfAForeignId) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  std::vector<int32_t> ids(6, 5), targets(6, 5);
  ids[4] = 260;
  EXPECT_WORDS(model->logits(ids, 2, 3), "row 1 position 1 holds id 260");
  ids[4] = -1;
  EXPECT_WORDS(model->logits(ids, 2, 3), "row 1 position 1 holds id -1");
  ids[4] = 5;
  targets[2] = -2;
  EXPECT_WORDS(model->loss(ids, targets, 2, 3, 0), "targets row 0 position 2 holds id -2");
  targets[2] = 260;
  EXPECT_WORDS(model->loss(ids, targets, 2, 3, 0), "targets row 0 position 2 holds id 260");
}

TEST(ModelErrors, RefuseShapesAndArgumentsThatDoNotFit) {
  auto model = random_model(tiny_config("byte260-jepa", ""), DType::f32);
  std::vector<int32_t> ids(6, 5), targets(6, -1), few(5, 5);
  EXPECT_THROW(model->logits(ids, 2, 2), InvalidArgument);
  EXPECT_THROW(model->logits({}, 0, 3), InvalidArgument);
  EXPECT_THROW(model->loss(ids, few, 2, 3, 0), InvalidArgument);
  EXPECT_WORDS(model->loss(ids, targets, 2, 3, 0), "at least one target");
  EXPECT_WORDS(model->loss(ids, ids, 2, 3, kPoison), "jepa_lambda");
  EXPECT_WORDS(model->loss(ids, ids, 2, 3, 0, std::vector<double>(7)), "sigreg_directions holds 7");
  auto patched = random_model(tiny_config("byte256-patch", ""), DType::f32);
  EXPECT_WORDS(patched->logits(few, 1, 5), "is not a multiple of patch_size");
  auto latent = random_model(tiny_config("byte256-jepa", ""), DType::f32);
  EXPECT_WORDS(latent->loss(std::vector<int32_t>{5, 6}, std::vector<int32_t>{6, 7}, 1, 2, 0),
               "must exceed jepa_pred_k");
  EXPECT_WORDS(latent->loss(std::vector<int32_t>{5, 6, 7}, std::vector<int32_t>{6, 7, -1}, 1, 3, 0),
               "needs every target");
}

TEST(ModelErrors, BackwardNeedsALossOfItsOwn) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const std::vector<int32_t> ids(6, 5);
  EXPECT_WORDS(model->backward(), "needs a loss()");
  model->loss(ids, ids, 2, 3, 0);
  model->backward();
  EXPECT_WORDS(model->backward(), "needs a loss()");
  model->loss(ids, ids, 2, 3, 0);
  model->logits(ids, 2, 3);
  EXPECT_WORDS(model->backward(), "needs a loss()");
}

TEST(ModelErrors, ANaNParameterStopsTheLossAndNamesThePart) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const std::vector<int32_t> ids(6, 5);
  set_all(*model, "blocks.1.attn.c_v.weight", kPoison);
  EXPECT_THROW(model->loss(ids, ids, 2, 3, 0), NumericsError);
  EXPECT_WORDS(model->loss(ids, ids, 2, 3, 0), "loss ce is");
  EXPECT_WORDS(model->backward(), "needs a loss()");
}

TEST(ModelErrors, AnUnknownLayerIsRefusedWithTheKnownOnes) {
  Config config = tiny_config("byte260", "");
  config.block = "attention convolution";
  EXPECT_WORDS(random_model(config, DType::f32), "unknown layer convolution ; known: attention, mlp");
  config.block = "mlp mlp";
  EXPECT_WORDS(random_model(config, DType::f32), "declared twice");
}

TEST(ModelErrors, AFailedCallLeavesTheModelUsable) {
  const TinyModel m = tiny_model("byte260-jepa", "", 2, 12);
  const Step expected = step(*random_model(m.config, DType::f32), m);
  auto model = random_model(m.config, DType::f32);
  std::vector<int32_t> bad = m.ids;
  bad[3] = 999;
  EXPECT_THROW(model->loss(bad, m.targets, m.B, m.T, kLambda), InvalidArgument);
  EXPECT_THROW(model->loss(m.ids, bad, m.B, m.T, kLambda), InvalidArgument);
  expect_equal(step(*model, m), expected);
}

TEST(Model, PlanTableNamesItsTensors) {
  auto model = random_model(tiny_config("byte260-jepa", ""), DType::f32);
  EXPECT_EQ(model->print_plan(), "no plan yet\n");
  const std::vector<int32_t> ids(12, 5);
  model->loss(ids, ids, 1, 12, 0);
  for (const char* name : {"ids", "input.raw", "blocks.2.attn_scale.qkv", "jepa.z", "head.logits", "total"})
    EXPECT_NE(model->print_plan().find(name), std::string::npos) << name;
}

}  // namespace
}  // namespace bg
