#include "tensor/params.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "model/family.h"
#include "model/head.h"
#include "model/jepa.h"
#include "model/trunk.h"
#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

struct Three {
  ParamTable table;
  Param a, b, c, d, e;
  Three() {
    table.param(a, "a", {3, 5}, Init::normal(1), Group::matrix, Codec::matrix);
    table.param(b, "b", {2, 5}, Init::normal(1), Group::matrix, Codec::matrix, Averaging::on, true);
    table.param(c, "c", {}, Init::constant(0.05), Group::scalar, Codec::other);
    table.param(d, "d", {7}, Init::ones(), Group::table, Codec::other);
    table.param(e, "e", {4, 3}, Init::rows(1, 0), Group::matrix, Codec::other);
  }
};

TEST(ParamTable, GroupsAreContiguousAlignedAndDisjoint) {
  for (DType dtype : {DType::f32, DType::f64}) {
    Three m;
    m.table.allocate(context(dtype), 0);
    EXPECT_EQ(m.table.numel(), 15 + 10 + 1 + 7 + 12);
    int64_t end = 0;
    for (const GroupRow& row : kGroups) {
      const Group g = row.group;
      const auto [lo, hi] = m.table.range(g);
      EXPECT_EQ(lo, end) << "ranges follow one another";
      end = hi;
      for (const ParamSpec& s : m.table.specs())
        EXPECT_EQ(s.group == g, s.offset >= lo && s.offset + s.shape.numel() <= hi) << s.name;
    }
    EXPECT_EQ(end, m.table.arena_numel());
    const int64_t muon = m.table.range(Group::matrix).second;
    EXPECT_EQ(m.table.range(Mover::muon), std::pair(int64_t{0}, muon));
    EXPECT_EQ(m.table.range(Mover::adam), std::pair(muon, end));
    for (const ParamSpec& s : m.table.specs()) {
      if (s.name != "b") {
        EXPECT_EQ(reinterpret_cast<uintptr_t>(s.handle->value.data()) % Buffer::kAlign, 0u) << s.name;
      }
      for (const ParamSpec& other : m.table.specs())
        if (&s != &other) {
          EXPECT_TRUE(s.offset + s.shape.numel() <= other.offset || other.offset + other.shape.numel() <= s.offset);
        }
    }
  }
}

TEST(ParamTable, ATensorDeclaredAfterAnotherMakesOneTallerMatrix) {
  Three m;
  m.table.allocate(context(DType::f64), 0);
  const Tensor both = stacked({m.a.value, m.b.value});
  EXPECT_TRUE(both.shape() == Shape({5, 5}));
  EXPECT_EQ(both.ptr<double>() + 15, m.b.value.ptr<double>());
  EXPECT_TRUE(stacked({m.a.grad, m.b.grad}).shape() == Shape({5, 5}));
  EXPECT_THROW(stacked({m.b.value, m.a.value}), InvalidArgument);
  EXPECT_THROW(stacked({m.a.value, m.e.value}), InvalidArgument);
}

TEST(ParamTable, RefusesASecondDeclarationAndANeighbourOfAnotherGroup) {
  Three m;
  Param p;
  EXPECT_THROW(m.table.param(p, "a", {1}, Init::zeros(), Group::scalar, Codec::other), InvalidArgument);
  EXPECT_THROW(m.table.param(p, "n", {1, 3}, Init::zeros(), Group::scalar, Codec::other, Averaging::on, true),
               InvalidArgument);
  EXPECT_EQ(m.table.find("none"), nullptr);
}

TEST(ParamTable, GradientsAndGapsBeginAsZero) {
  Three m;
  m.table.allocate(context(DType::f64), 0);
  for (int64_t i = 0; i < m.table.arena_numel(); ++i) ASSERT_EQ(m.table.grads().ptr<double>()[i], 0);
  std::vector<bool> used(static_cast<size_t>(m.table.arena_numel()));
  for (const ParamSpec& s : m.table.specs())
    for (int64_t i = 0; i < s.shape.numel(); ++i) used[s.offset + i] = true;
  for (int64_t i = 0; i < m.table.arena_numel(); ++i)
    if (!used[i]) {
      ASSERT_EQ(m.table.values().ptr<double>()[i], 0);
    }
}

TEST(Codec, IsKnownByItsName) {
  EXPECT_EQ(codec_of("matrix"), Codec::matrix);
  EXPECT_EQ(codec_of("other"), Codec::other);
  EXPECT_EQ(codec_of("left_out"), Codec::left_out);
  EXPECT_STREQ(name_of(Codec::left_out), "left_out");
  EXPECT_THROW(codec_of("int5"), InvalidArgument);
}

ParamSpec spec(const char* name, Shape shape, Init init) {
  return {name, shape, init, Group::matrix, Codec::matrix, Averaging::on, 0, nullptr};
}

TEST(InitialValues, FollowFromSeedAndNameAlone) {
  for (const Init& init : {Init::normal(1), Init::uniform(1), Init::orthogonal()}) {
    const auto a = initial_values(spec("w", {8, 8}, init), 1);
    EXPECT_EQ(initial_values(spec("w", {8, 8}, init), 1), a);
    EXPECT_NE(initial_values(spec("v", {8, 8}, init), 1), a);
    EXPECT_NE(initial_values(spec("w", {8, 8}, init), 2), a);
  }
  Three m, n;
  m.table.allocate(context(DType::f64, 1), 9);
  n.table.allocate(context(DType::f32, 3), 9);
  for (int64_t i = 0; i < 15; ++i) EXPECT_EQ(static_cast<float>(m.a.value.ptr<double>()[i]), n.a.value.ptr<float>()[i]);
}

TEST(InitialValues, OrthogonalRowsOrColumnsHaveUnitLength) {
  for (const auto& [rows, cols] : {std::pair{64, 64}, {64, 100}, {130, 70}}) {
    const auto w = initial_values(spec("w", {rows, cols}, Init::orthogonal()), 4);
    const bool tall = rows > cols;
    const int64_t n = tall ? cols : rows, m = tall ? rows : cols;
    for (int64_t a = 0; a < n; ++a)
      for (int64_t b = 0; b <= a; ++b) {
        double dot = 0;
        for (int64_t i = 0; i < m; ++i)
          dot += tall ? w[i * cols + a] * w[i * cols + b] : w[a * cols + i] * w[b * cols + i];
        ASSERT_NEAR(dot, a == b ? 1 : 0, 1e-10) << rows << "x" << cols;
      }
  }
}

TEST(InitialValues, HaveTheirMomentsAndBounds) {
  const int64_t n = 40000;
  double sum = 0, square = 0, largest = 0, flat_square = 0;
  for (double v : initial_values(spec("w", {n}, Init::normal(0.02)), 4)) sum += v, square += v * v;
  EXPECT_NEAR(sum / n, 0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(square / n), 0.02, 0.0004);
  for (double v : initial_values(spec("w", {n}, Init::uniform(0.5)), 4)) {
    largest = std::max(largest, std::abs(v));
    flat_square += v * v;
  }
  EXPECT_LE(largest, 0.5);
  EXPECT_GT(largest, 0.499);
  EXPECT_NEAR(flat_square / n, 0.25 / 3, 0.002);
  EXPECT_EQ(initial_values(spec("w", {2, 2}, Init::rows(1, 0)), 4), (std::vector<double>{1, 1, 0, 0}));
  EXPECT_EQ(initial_values(spec("w", {}, Init::constant(0.05)), 4), std::vector<double>{0.05});
}

// ---- what the presets declare, without allocating it

std::map<std::string, Init> inits_of(const Config& config, int64_t& count) {
  ParamTable table;
  InputStage input(config);
  Trunk trunk(stack_of(config));
  OutputStage output(config, input);
  LatentHead latent(config, input);
  Jepa jepa(config);
  trunk.declare_skips(table);
  input.declare(table);
  if (config.jepa_pred_k > 0) latent.declare(table);
  trunk.declare_blocks(table);
  if (config.jepa_chunk_size > 0) jepa.declare(table);
  output.declare(table);
  std::map<std::string, Init> out;
  count = 0;
  for (const ParamSpec& s : table.specs()) {
    out.emplace(s.name, s.init);
    count += s.shape.numel();
  }
  return out;
}

TEST(Presets, HaveThePublishedNumberOfParameters) {
  int64_t count = 0;
  inits_of(Config::preset("byte260-jepa"), count);
  EXPECT_EQ(count, 24625001);
  inits_of(Config::preset("byte256"), count);
  EXPECT_EQ(count, 27571816);
}

TEST(Presets, StartAsThePublishedProgramsDo) {
  int64_t count = 0;
  auto byte260 = inits_of(Config::preset("byte260-jepa"), count), byte256 = inits_of(Config::preset("byte256"), count);
  const auto expect = [](const Init& got, const Init& want, const char* name) {
    const Random random(5, name);
    EXPECT_EQ(got.draw(random, {6, 4}), want.draw(random, {6, 4})) << name;
  };
  const double of512 = 1 / std::sqrt(512.0);
  for (const auto& [name, want] : std::map<std::string, Init>{{"tok_emb.weight", Init::normal(0.005)},
                                                              {"blocks.3.attn.c_q.weight", Init::orthogonal()},
                                                              {"blocks.3.mlp.fc.weight", Init::orthogonal()},
                                                              {"blocks.3.attn.proj.weight", Init::zeros()},
                                                              {"blocks.3.mlp.proj.weight", Init::zeros()},
                                                              {"blocks.3.attn.q_gain", Init::constant(1.5)},
                                                              {"blocks.3.attn_scale", Init::ones()},
                                                              {"blocks.3.mlp_scale", Init::ones()},
                                                              {"blocks.3.resid_mix", Init::rows(1, 0)},
                                                              {"skip_weights", Init::ones()},
                                                              {"bigram.embed.weight", Init::zeros()},
                                                              {"bigram.proj.weight", Init::zeros()},
                                                              {"bigram.scale", Init::constant(0.05)},
                                                              {"smear.gate", Init::zeros()},
                                                              {"jepa_injection.weight", Init::zeros()},
                                                              {"jepa_predictor.start_token", Init::normal(0.02)},
                                                              {"jepa_projector.fc1.weight", Init::uniform(of512)}}) {
    ASSERT_TRUE(byte260.contains(name)) << name;
    expect(byte260.at(name), want, name.c_str());
  }
  for (const auto& [name, want] : std::map<std::string, Init>{{"blocks.3.mixer.c_q.weight", Init::uniform(of512)},
                                                              {"blocks.3.mixer.proj.weight", Init::zeros()},
                                                              {"bigram_hash.embed.weight", Init::normal(0.01)},
                                                              {"smear_gate.gate", Init::zeros()}}) {
    ASSERT_TRUE(byte256.contains(name)) << name;
    expect(byte256.at(name), want, name.c_str());
  }
  auto untied = inits_of(Config::parse("tie_embeddings = false", "test", Config::preset("byte260")), count);
  expect(untied.at("tok_emb.weight"), Init::normal(1), "untied tok_emb");
  expect(untied.at("lm_head.weight"), Init::zeros(), "untied lm_head");
}

}  // namespace
}  // namespace bg
