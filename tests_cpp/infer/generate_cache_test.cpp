// Generating with kept keys and values: what the uncached path computes, to the last bit on the CPU.
#include <gtest/gtest.h>

#include <set>

#include "infer/generate.h"
#include "testing/tiny_models.h"

namespace bg {
namespace {

using Texts = std::vector<std::string>;

Sampling sampling(bool cache, uint64_t seed = 5, double temperature = 1) {
  Sampling s;
  s.seed = seed;
  s.temperature = temperature;
  s.cache = cache;
  return s;
}

// Every shape of model that has steps; windows are crossed several times (12 to 23 ids), chunks of JEPA many times.
std::vector<Config> models() {
  std::vector<Config> out;
  for (const TinyModel& tiny : tiny_models())
    if (tiny.config.patch_size == 1) out.push_back(tiny.config);
  out.push_back(tiny_config("byte260-jepa", "seq_len = 11"));  // the last chunk of a window is never whole
  out.push_back(tiny_config("byte260-jepa", "seq_len = 150\njepa_chunk_size = 5"));  // nor is that of 64 or 128 ids
  out.push_back(tiny_config("byte260-jepa", "seq_len = 90\njepa_chunk_size = 70"));  // longer than the first pass
  out.push_back(tiny_config("byte260-jepa", "seq_len = 9\nrope_train_len = 8"));
  out.push_back(tiny_config("byte260", "seq_len = 2"));
  out.push_back(tiny_config("byte260", "seq_len = 3"));
  return out;
}

// Logits of the row after each of `ids`, taking one id a step from the third on.
std::vector<std::string> stepwise(Model& model, const std::vector<int32_t>& ids, int64_t start) {
  const Config& c = model.config();
  const int64_t T = static_cast<int64_t>(ids.size());
  const size_t bytes = static_cast<size_t>(c.vocab_size()) * size_of(model.ctx().dtype);
  std::vector<std::string> out;
  Decoder decoder(model, 1, T);
  out.push_back(bits_of(decoder.prompt(0, ids, start)));
  for (int64_t t = start; t < T; ++t) {
    NextId next;
    for (int64_t i = 0; i < 3; ++i) next.ids[i] = ids[static_cast<size_t>(t - 2 + i)];
    next.position = static_cast<int32_t>(t);
    for (int64_t s = 0; c.doc_mask && s <= t; ++s)
      if (ids[static_cast<size_t>(s)] == c.bos_id()) next.first = static_cast<int32_t>(s);
    if (c.jepa_chunk_size > 0) next.inject_end = static_cast<int32_t>(T / c.jepa_chunk_size * c.jepa_chunk_size);
    const Tensor logits = decoder.step({&next, 1});
    EXPECT_EQ(logits.size_bytes(), bytes);
    out.push_back(bits_of(logits));
  }
  return out;
}

TEST(GenerateCache, LogitsOfEveryStepHaveTheBitsOfTheWholeWindow) {
  for (DType dtype : {DType::f32, DType::f64})
    for (const TinyModel& tiny : tiny_models()) {
      const Config& c = tiny.config;
      if (c.patch_size > 1) continue;
      const int64_t T = c.seq_len;  // where angles depend on the length, steps take the window's
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < T; ++t) ids.push_back(tiny.ids[static_cast<size_t>(t % (tiny.B * tiny.T))]);
      auto model = random_model(c, dtype);
      const Tensor whole = model->logits(ids, 1, T).reshape({T, c.vocab_size()});
      std::vector<std::string> expected;
      for (int64_t t = 0; t < T; ++t) expected.push_back(bits_of(whole.slice(0, t, t + 1)));
      for (int64_t start : {int64_t{2}, int64_t{4}, int64_t{5}, T - 1}) {
        SCOPED_TRACE(words(tiny.name, name_of(dtype), "from", start));
        const std::vector<std::string> got = stepwise(*model, ids, start);
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_TRUE(got[i] == expected[static_cast<size_t>(start) - 1 + i]) << "step " << i;
      }
    }
}

TEST(GenerateCache, LongWindowsHaveTheSameBitsToo) {
  // Several blocks of keys (96), windows that begin inside one, heads of the size of training, groups of two heads.
  const Config c = tiny_config("byte260-jepa",
                               "num_layers = 2\nmodel_dim = 256\nnum_heads = 4\nnum_kv_heads = 2\nrope_dims = 16\n"
                               "seq_len = 320\njepa_chunk_size = 8\nattn_windows = \"0,130\"\nxsa_last_n = 1");
  for (DType dtype : {DType::f32, DType::f64}) {
    auto model = random_model(c, dtype, 2);
    const int64_t T = 320;
    const Owned random = Owned::random_ids({T}, 4, 259, "ids");
    const std::vector<int32_t> ids(random.view().ptr<int32_t>(), random.view().ptr<int32_t>() + T);
    const Tensor whole = model->logits(ids, 1, T).reshape({T, c.vocab_size()});
    std::vector<std::string> expected;
    for (int64_t t = 0; t < T; ++t) expected.push_back(bits_of(whole.slice(0, t, t + 1)));
    const std::vector<std::string> got = stepwise(*model, ids, 37);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_TRUE(got[i] == expected[36 + i]) << name_of(dtype) << " step " << i;
  }
}

TEST(GenerateCache, BytesAreThoseOfTheUncachedPath) {
  const Texts prompts = {"hello", "", "a prompt that is longer than most of these windows are", "x"};
  for (const Config& c : models())
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(words(c.family, "seq_len", c.seq_len, "chunk", c.jepa_chunk_size, name_of(dtype)));
      auto model = random_model(c, dtype);
      const std::span<const std::string> some = c.bos_id() >= 0 ? std::span(prompts) : std::span(prompts).subspan(2, 2);
      const int64_t n = 3 * c.seq_len / 2;
      EXPECT_EQ(generate(*model, some, n, sampling(true)), generate(*model, some, n, sampling(false)));
    }
}

TEST(GenerateCache, ARowDependsNeitherOnItsNeighboursNorOnTheirNumber) {
  auto model = random_model(tiny_config("byte260-jepa", ""), DType::f32);
  const Texts three = {"ab", "something longer", ""}, others = {"zzzzzzzz", "something longer", "q", "r"};
  const Texts got = generate(*model, three, 40, sampling(true));
  EXPECT_EQ(got[0], generate(*model, std::span(three).first(1), 40, sampling(true))[0]);
  EXPECT_EQ(got[0], generate(*model, "ab", 40, 1.0, 5)) << "row 0 draws like a single prompt";
  EXPECT_EQ(got[1], generate(*model, others, 40, sampling(true))[1]);
  EXPECT_EQ(got[2], generate(*model, Texts{"a", "b", ""}, 40, sampling(true))[2]);
}

TEST(GenerateCache, EqualPromptsInDifferentRowsAreDrawnApart) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Texts same(4, "ab");
  const Texts drawn = generate(*model, same, 30, sampling(true)),
              greedy = generate(*model, same, 30, sampling(true, 5, 0));
  EXPECT_EQ(std::set<std::string>(drawn.begin(), drawn.end()).size(), 4u);
  EXPECT_EQ(std::set<std::string>(greedy.begin(), greedy.end()).size(), 1u) << "no draw, no row";
}

TEST(GenerateCache, SurvivesOtherUsesOfTheModelBetweenSteps) {
  const TinyModel tiny = tiny_model("byte260-jepa", "", 2, 12);
  auto model = random_model(tiny.config, DType::f32);
  const Texts prompts = {"ab", "cdef"}, other = {"zz", "yy"};
  const Texts expected = generate(*model, prompts, 20, sampling(true));
  Generation run(*model, prompts, 20, sampling(true)), between(*model, other, 20, sampling(true));
  for (int i = 0; !run.advance().empty(); ++i) {
    if (i % 4 == 0) model->logits(tiny.ids, tiny.B, tiny.T);
    if (i % 4 == 1) model->loss(tiny.ids, tiny.targets, tiny.B, tiny.T, 0.1);
    if (i % 4 == 2) between.advance();
  }
  EXPECT_EQ(run.text(0), expected[0]);
  EXPECT_EQ(run.text(1), expected[1]);
}

TEST(GenerateCache, ChangedWeightsAreReadByTheNextCall) {
  const Config c = tiny_config("byte260", "");
  auto model = random_model(c, DType::f32), changed = random_model(c, DType::f32);
  generate(*model, "ab", 10, 1.0, 3);
  for (Model* m : {model.get(), changed.get()}) {
    const Tensor values = m->params().values();
    for (int64_t i = 0; i < values.numel(); ++i) values.ptr<float>()[i] *= 1.5f;
  }
  EXPECT_EQ(generate(*model, "ab", 10, 1.0, 3), generate(*changed, "ab", 10, 1.0, 3));
}

TEST(GenerateCache, PatchModelsGoWithoutAndRefuseSteps) {
  auto model = random_model(tiny_config("byte256-patch", ""), DType::f32);
  const Texts prompts = {"ab", "cde"};
  EXPECT_EQ(generate(*model, prompts, 30, sampling(true)), generate(*model, prompts, 30, sampling(false)));
  EXPECT_THROW(Decoder(*model, 1, 8), InvalidArgument);
}

TEST(GenerateCache, StepsRefuseWhatTheyCannotTake) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const std::vector<int32_t> ids(8, 65);
  EXPECT_THROW(Decoder(*model, 0, 12), InvalidArgument);
  EXPECT_THROW(Decoder(*model, 1, 0), InvalidArgument);
  Decoder decoder(*model, 1, 12);
  EXPECT_THROW(decoder.prompt(1, ids, 4), InvalidArgument) << "no such row";
  EXPECT_THROW(decoder.prompt(0, ids, 9), InvalidArgument) << "more than there are";
  decoder.prompt(0, ids, 8);
  for (const NextId& next : {NextId{{65, 65, 260}, 8, 0, 0}, NextId{{65, 65, 65}, 12, 0, 0},
                             NextId{{65, 65, 65}, 1, 0, 0}, NextId{{65, 65, 65}, 8, 9, 0}})
    EXPECT_THROW(decoder.step({&next, 1}), InvalidArgument);
}

// Probabilities of the first byte behind "A", by the definition.
std::vector<double> first_byte(Model& model, double temperature) {
  const std::vector<int32_t> ids = {65};
  const Tensor logits = model.logits(ids, 1, 1);
  std::vector<double> p(logits.ptr<double>(), logits.ptr<double>() + 256);
  double sum = 0;
  for (double& v : p) sum += v = std::exp(v / temperature);
  for (double& v : p) v /= sum;
  return p;
}

TEST(Sampling, TopPDrawsFromTheSmallestSetOfLikeliestBytesInItsProportions) {
  auto model = random_model(tiny_config("byte256", "num_layers = 1"), DType::f64);
  Sampling s;
  s.temperature = 0.7;
  const std::vector<double> p = first_byte(*model, s.temperature);
  std::vector<int> order(256);
  for (int i = 0; i < 256; ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  // The third likeliest completes the set; a hair more needs a fourth.
  const double three = p[order[0]] + p[order[1]] + p[order[2]];
  for (const auto& [top_p, size] : {std::pair{three * (1 - 1e-9), 3}, {three * (1 + 1e-9), 4}, {1e-9, 1}}) {
    s.top_p = top_p;
    std::vector<int> drawn(256);
    const int draws = 1200;
    const Texts prompts = {"A"};
    for (s.seed = 0; s.seed < draws; ++s.seed) drawn[static_cast<uint8_t>(generate(*model, prompts, 1, s)[0][0])] += 1;
    double kept = 0;
    for (int i = 0; i < size; ++i) kept += p[order[i]];
    for (int i = 0; i < 256; ++i) {
      const double want = i < size ? p[order[i]] / kept : 0;
      EXPECT_NEAR(drawn[order[i]], want * draws, 4 * std::sqrt(want * (1 - want) * draws))
          << size << " bytes, rank " << i;
    }
  }
}

TEST(Sampling, TopPOfOneChangesNothing) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  Sampling s = sampling(true);
  const std::vector<std::string> prompts = {"ab"};
  const Texts all = generate(*model, prompts, 40, s);
  s.top_p = std::nextafter(1.0, 0.0);
  EXPECT_EQ(generate(*model, prompts, 40, s), all) << "nor does one that leaves out next to nothing";
}

TEST(Sampling, ARowEndsWithTheFirstStopItWritesAndOthersGoOn) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Texts prompts = {"ab", "cd"};
  Sampling s = sampling(true);
  const Texts whole = generate(*model, prompts, 60, s);
  const std::string stop = whole[0].substr(17, 2);  // some two bytes of the first
  s.stop = {"never written, as it is far too long for sixty bytes of nonsense", stop};
  const Texts got = generate(*model, prompts, 60, s);
  for (size_t r = 0; r < 2; ++r) {
    const size_t at = whole[r].find(stop);
    EXPECT_EQ(got[r], at == std::string::npos ? whole[r] : whole[r].substr(0, at + 2));
  }
  EXPECT_LE(got[0].size(), 19u);
}

TEST(Sampling, EmitSeesRowsInOrderAndEndsThem) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Texts prompts = {"ab", "cd", "ef"};
  Texts seen(3);
  std::vector<int64_t> rows;
  const Texts got = generate(*model, prompts, 10, sampling(true), [&](int64_t row, uint8_t byte) {
    rows.push_back(row);
    seen[static_cast<size_t>(row)].push_back(static_cast<char>(byte));
    return row != 1 || seen[1].size() < 4;
  });
  EXPECT_EQ(seen, got);
  EXPECT_EQ(got[1].size(), 4u);
  EXPECT_EQ(got[2].size(), 10u);
  EXPECT_EQ(std::vector<int64_t>(rows.begin(), rows.begin() + 6), (std::vector<int64_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(rows.back(), 2);
}

TEST(Sampling, RefusesWhatItCannotDraw) {
  auto model = random_model(tiny_config("byte260", ""), DType::f32);
  const Texts prompts = {"ab"};
  for (double top_p : {0.0, -0.5, 1.5, kPoison}) {
    Sampling s;
    s.top_p = top_p;
    EXPECT_THROW(generate(*model, prompts, 5, s), InvalidArgument) << top_p;
  }
  Sampling s;
  s.stop = {"a", ""};
  EXPECT_THROW(generate(*model, prompts, 5, s), InvalidArgument);
  EXPECT_THROW(generate(*model, Texts{}, 5, Sampling{}), InvalidArgument);
}

}  // namespace
}  // namespace bg
