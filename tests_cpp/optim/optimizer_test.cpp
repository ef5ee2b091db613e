#include "optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/update.h"
#include "optim/clip.h"

namespace bg {
namespace {

// A table with a tensor of every group, one of them not averaged.
template <class T>
struct Small {
  Ctx ctx;
  Config config;
  ParamTable params;
  Param wide, tall, table, head, gains, scale, latent, decay_rates;

  explicit Small(int threads = 1) {
    ctx.dtype = DTypeOf<T>::value;
    ctx.pool = std::make_shared<ThreadPool>(threads);
    config.grad_clip_norm = 0;
    const Init start = Init::normal(1);
    params.param(gains, "gains", {7}, start, Group::scalar, Codec::other);
    params.param(wide, "wide", {3, 5}, start, Group::matrix, Codec::matrix);
    params.param(table, "table", {130, 257}, start, Group::table, Codec::other);
    params.param(tall, "tall", {8, 2}, start, Group::matrix, Codec::matrix);
    params.param(head, "head", {4, 3}, start, Group::head, Codec::other);
    params.param(scale, "scale", {}, start, Group::scalar, Codec::other);
    params.param(latent, "latent", {6, 2}, start, Group::jepa, Codec::left_out, Averaging::off);
    params.param(decay_rates, "decay_rates", {5}, start, Group::scalar_no_decay, Codec::other);
    params.allocate(ctx, 11);
  }
  void draw_gradients(uint32_t step) {
    for (const ParamSpec& spec : params.specs()) {
      const Random random(5, spec.name, step);
      T* g = spec.handle->grad.template ptr<T>();
      for (int64_t i = 0; i < spec.shape.numel(); ++i) g[i] = static_cast<T>(random.normal(static_cast<uint64_t>(i)));
    }
  }
  static std::vector<double> copy(Tensor t) { return {t.ptr<T>(), t.ptr<T>() + t.numel()}; }
};

// Adam as its paper writes it, with decoupled decay, element by element.
std::vector<double> adam_by_hand(std::vector<double> p, const std::vector<std::vector<double>>& gradients, double lr,
                                 double wd, const Config& c) {
  std::vector<double> m(p.size()), v(p.size());
  for (size_t t = 1; t <= gradients.size(); ++t) {
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = gradients[t - 1][i];
      m[i] = c.beta1 * m[i] + (1 - c.beta1) * g;
      v[i] = c.beta2 * v[i] + (1 - c.beta2) * g * g;
      const double mean = m[i] / (1 - std::pow(c.beta1, t)), square = v[i] / (1 - std::pow(c.beta2, t));
      p[i] = p[i] * (1 - lr * wd) - lr * mean / (std::sqrt(square) + c.adam_eps);
    }
  }
  return p;
}

template <class T>
class OptimizerOf : public testing::Test {};
using Floats = testing::Types<float, double>;
TYPED_TEST_SUITE(OptimizerOf, Floats);

TYPED_TEST(OptimizerOf, MovesEveryAdamGroupAsThePaperSays) {
  using T = TypeParam;
  Small<T> s;
  Optimizer optimizer(s.config, s.ctx, s.params);
  Averages averages(s.config, s.ctx, s.params);
  const Param* handles[] = {&s.table, &s.head, &s.gains, &s.scale, &s.latent, &s.decay_rates};
  const double lr[] = {0.035, 0.008, 0.025, 0.025, 0.001, 0.025}, wd[] = {0.04, 0.04, 0.04, 0.04, 0, 0};
  std::vector<double> first[6];
  std::vector<std::vector<double>> gradients[6];
  for (int k = 0; k < 6; ++k) first[k] = s.copy(handles[k]->value);
  for (uint32_t n = 0; n < 3; ++n) {
    s.draw_gradients(n);
    for (int k = 0; k < 6; ++k) gradients[k].push_back(s.copy(handles[k]->grad));
    optimizer.step(n, optimizer.gradient_norm(), 0.5, 0.9, averages);
  }
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-14;
  for (int k = 0; k < 6; ++k) {
    const auto expected = adam_by_hand(first[k], gradients[k], 0.5 * lr[k], wd[k], s.config);
    const auto got = s.copy(handles[k]->value);
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], tolerance) << "group " << k << " at " << i;
  }
}

TYPED_TEST(OptimizerOf, HasTheSameBitsAtAnyThreadCount) {
  using T = TypeParam;
  std::vector<std::vector<double>> results;
  for (int threads : {1, 2, 3}) {
    Small<T> s(threads);
    Optimizer optimizer(s.config, s.ctx, s.params);
    Averages averages(s.config, s.ctx, s.params);
    std::vector<double> all;
    for (uint32_t n = 0; n < 3; ++n) {
      s.draw_gradients(n);
      all.push_back(optimizer.gradient_norm());
      optimizer.step(n, all.back(), 1, 0.95, averages);
    }
    for (const Tensor& t : {s.params.values(), averages.ema(), optimizer.first_moments()})
      for (double v : s.copy(t)) all.push_back(v);
    results.push_back(all);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TYPED_TEST(OptimizerOf, NamesTheTensorThatHoldsNanAndChangesNothing) {
  using T = TypeParam;
  for (const double bad : {std::nan(""), -std::numeric_limits<double>::infinity()}) {
    Small<T> s;
    Optimizer optimizer(s.config, s.ctx, s.params);
    const auto before = s.copy(s.params.values());
    s.head.grad.template ptr<T>()[7] = static_cast<T>(bad);
    try {
      optimizer.gradient_norm();
      FAIL() << "not refused";
    } catch (const NumericsError& error) {
      EXPECT_NE(std::string(error.what()).find("gradient of head is"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("element 7"), std::string::npos) << error.what();
    }
    EXPECT_EQ(s.copy(s.params.values()), before);
  }
}

TEST(Optimizer, NamesTheLargestGradientWhenOnlyTheNormOverflows) {
  Small<double> s;
  Optimizer optimizer(s.config, s.ctx, s.params);
  s.tall.grad.ptr<double>()[3] = 1e200;
  try {
    optimizer.gradient_norm();
    FAIL() << "not refused";
  } catch (const NumericsError& error) {
    EXPECT_NE(std::string(error.what()).find("in tall"), std::string::npos) << error.what();
  }
}

TEST(Optimizer, LeavesWeightsWithoutGradientsAloneButForDecay) {
  Small<double> s;
  s.config.adam_eps = 0;  // 0 / 0 must not become NaN
  Optimizer optimizer(s.config, s.ctx, s.params);
  Averages averages(s.config, s.ctx, s.params);
  const auto wide = s.copy(s.wide.value), table = s.copy(s.table.value), latent = s.copy(s.latent.value);
  const auto decay_rates = s.copy(s.decay_rates.value);
  optimizer.step(0, optimizer.gradient_norm(), 1, 0.9, averages);
  const auto wide_after = s.copy(s.wide.value), table_after = s.copy(s.table.value);
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_DOUBLE_EQ(wide_after[i], wide[i] * (1 - 0.025 * 0.04));
  for (size_t i = 0; i < table.size(); ++i) EXPECT_DOUBLE_EQ(table_after[i], table[i] * (1 - 0.035 * 0.04));
  EXPECT_EQ(s.copy(s.latent.value), latent);
  EXPECT_EQ(s.copy(s.decay_rates.value), decay_rates);
  for (double v : s.copy(s.params.values())) EXPECT_TRUE(std::isfinite(v));
}

TEST(Optimizer, MovesATensorOfEveryGroup) {
  Ctx ctx;
  ctx.dtype = DType::f64;
  ctx.pool = std::make_shared<ThreadPool>(1);
  const Config config;
  ParamTable params;
  Param handles[kNumGroups];
  for (const GroupRow& row : kGroups)
    params.param(handles[static_cast<int>(row.group)], row.name, {3, 4}, Init::ones(), row.group, Codec::other);
  params.allocate(ctx, 0);
  Optimizer optimizer(config, ctx, params);
  const Averages averages(config, ctx, params);
  for (const Param& handle : handles)
    for (int64_t i = 0; i < 12; ++i) handle.grad.ptr<double>()[i] = static_cast<double>(1 + i % 5);
  optimizer.step(0, optimizer.gradient_norm(), 1, 0.9, averages);
  for (const GroupRow& row : kGroups)
    for (int64_t i = 0; i < 12; ++i)
      EXPECT_NE(handles[static_cast<int>(row.group)].value.ptr<double>()[i], 1) << row.name;
}

TEST(Optimizer, RefusesATensorThatNothingMovesAndOneThatIsMovedTwice) {
  const Small<double> s;
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;
  const auto refusal = [&](const Ranges& moved) -> std::string {
    try {
      check_all_are_moved(s.params, moved);
    } catch (const InvalidArgument& error) {
      return error.what();
    }
    return "";
  };
  Ranges all;
  for (const GroupRow& row : kGroups) all.push_back(s.params.range(row.group));
  EXPECT_EQ(refusal(all), "");
  Ranges without = all;
  without.pop_back();
  EXPECT_NE(refusal(without).find("5 elements of decay_rates of group scalar_no_decay"), std::string::npos)
      << refusal(without);
  Ranges shorter = all;
  shorter[0].second = s.params.find("tall")->offset + 15;  // the last but one of its 16
  EXPECT_NE(refusal(shorter).find("1 elements of tall of group matrix"), std::string::npos) << refusal(shorter);
  Ranges twice = all;
  twice.emplace_back(0, 1);
  EXPECT_NE(refusal(twice).find("moved twice"), std::string::npos) << refusal(twice);
}

TEST(Optimizer, GivesMatricesStepsOfUnitSingularValues) {
  Small<double> s;
  s.config.muon_wd = 0;
  s.config.newton_schulz_steps = 5;
  Optimizer optimizer(s.config, s.ctx, s.params);
  Averages averages(s.config, s.ctx, s.params);
  const auto before = s.copy(s.tall.value);
  s.draw_gradients(0);
  optimizer.step(0, 1, 1, 0.9, averages);
  const auto after = s.copy(s.tall.value);
  // The step O of an 8x2 matrix has scale sqrt(8/2) = 2 and singular values 0.68 to 1.13 (the published bounds of the
  // iteration) before it: tr(O^T O) lies in 2^2 * 2 * [0.68^2, 1.13^2].
  double trace = 0;
  for (size_t i = 0; i < before.size(); ++i) trace += std::pow((after[i] - before[i]) / 0.025, 2);
  EXPECT_GT(trace, 8 * 0.46);
  EXPECT_LT(trace, 8 * 1.28);
}

TEST(Clip, ScalesTheWholeGradientToTheNorm) {
  EXPECT_DOUBLE_EQ(clip_factor(3, 0.3), 0.3 / (3 + 1e-6));
  EXPECT_EQ(clip_factor(0.2, 0.3), 1);
  EXPECT_EQ(clip_factor(0, 0.3), 1);
  EXPECT_EQ(clip_factor(1e9, 0), 1);
}

TEST(Clip, NormCoversAllTensorsAndEqualsTheDirectSum) {
  Small<float> s(2);
  Optimizer optimizer(s.config, s.ctx, s.params);
  s.draw_gradients(1);
  long double sum = 0;
  for (const ParamSpec& spec : s.params.specs())
    for (double g : s.copy(spec.handle->grad)) sum += static_cast<long double>(g) * g;
  EXPECT_NEAR(optimizer.gradient_norm() / std::sqrt(static_cast<double>(sum)), 1, 1e-13);
}

TEST(Clip, AppliesBeforeAdam) {
  Small<double> a, b;
  a.config.grad_clip_norm = 0.3;
  Optimizer first(a.config, a.ctx, a.params), second(b.config, b.ctx, b.params);
  Averages averages_a(a.config, a.ctx, a.params), averages_b(b.config, b.ctx, b.params);
  a.draw_gradients(0), b.draw_gradients(0);
  const double norm = first.gradient_norm(), factor = 0.3 / (norm + 1e-6);
  double* g = b.params.grads().ptr<double>();
  for (int64_t i = 0; i < b.params.arena_numel(); ++i) g[i] *= factor;
  first.step(0, norm, 1, 0.9, averages_a);
  second.step(0, second.gradient_norm(), 1, 0.9, averages_b);
  EXPECT_EQ(a.copy(a.params.values()), b.copy(b.params.values()));
}

TEST(Averages, RunningAverageFollowsItsDefinition) {
  Small<double> s;
  s.config.ema_decay = 0.9;
  Optimizer optimizer(s.config, s.ctx, s.params);
  Averages averages(s.config, s.ctx, s.params);
  std::vector<double> expected = s.copy(s.table.value), matrix = s.copy(s.tall.value);
  for (uint32_t n = 0; n < 4; ++n) {
    s.draw_gradients(n);
    optimizer.step(n, optimizer.gradient_norm(), 1, 0.9, averages);
    const auto table = s.copy(s.table.value), tall = s.copy(s.tall.value);
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = 0.9 * expected[i] + 0.1 * table[i];
    for (size_t i = 0; i < matrix.size(); ++i) matrix[i] = 0.9 * matrix[i] + 0.1 * tall[i];
  }
  const auto table = s.copy(ParamTable::view(*s.params.find("table"), averages.ema()));
  const auto tall = s.copy(ParamTable::view(*s.params.find("tall"), averages.ema()));
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(table[i], expected[i], 1e-14);
  for (size_t i = 0; i < matrix.size(); ++i) EXPECT_NEAR(tall[i], matrix[i], 1e-14);
  for (double v : s.copy(ParamTable::view(*s.params.find("latent"), averages.ema()))) EXPECT_EQ(v, 0);
}

TEST(Averages, ConstantWeightsStayConstantToTheBit) {
  Small<float> s;
  s.config.swa_last_frac = 1;
  Averages averages(s.config, s.ctx, s.params);
  for (int n = 0; n < 100; ++n) {
    average_step(s.ctx, averages.ema_weight(), s.table.value.reshape({130 * 257}),
                 ParamTable::view(*s.params.find("table"), averages.ema()).reshape({130 * 257}));
    averages.snapshot(s.params);
  }
  EXPECT_EQ(averages.snapshots(), 100);
  for (const Tensor& arena : {averages.ema(), averages.swa()})
    EXPECT_EQ(s.copy(ParamTable::view(*s.params.find("table"), arena)), s.copy(s.table.value));
}

TEST(Averages, SnapshotsAverageToTheirMean) {
  Small<double> s;
  s.config.swa_last_frac = 0.5;
  Averages averages(s.config, s.ctx, s.params);
  for (double v : {1.0, 2.0, 6.0}) {
    for (int64_t i = 0; i < 7; ++i) s.gains.value.ptr<double>()[i] = v;
    averages.snapshot(s.params);
  }
  for (double v : s.copy(ParamTable::view(*s.params.find("gains"), averages.swa()))) EXPECT_DOUBLE_EQ(v, 3);
}

}  // namespace
}  // namespace bg
