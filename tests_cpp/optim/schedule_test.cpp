#include "optim/schedule.h"

#include <gtest/gtest.h>

namespace bg {
namespace {

// The run of train_byte260_jepa.npz, whose `lr_scale` and `jepa_lambda` are quoted below.
Config forty_steps() {
  Config c;
  c.iterations = 40, c.warmdown_iters = 10, c.jepa_lambda_max = 0.5, c.muon_momentum_warmup_steps = 15;
  return c;
}

TEST(Schedule, StepSizeFallsLinearlyOverTheLastStepsAndEndsAtOneOverW) {
  const Config c = forty_steps();
  const double expected[] = {1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1};  // lr_scale[30:40]
  for (int n = 0; n < 30; ++n) EXPECT_DOUBLE_EQ(lr_factor(c, n, {}), 1);
  for (int n = 30; n < 40; ++n) EXPECT_DOUBLE_EQ(lr_factor(c, n, {}), expected[n - 30]);
}

TEST(Schedule, NoWarmdownKeepsTheStepSize) {
  Config c = forty_steps();
  c.warmdown_iters = 0;
  EXPECT_EQ(lr_factor(c, 39, {}), 1);
}

TEST(Schedule, JepaWeightIsZeroThenLinearThenZero) {
  const Config c = forty_steps();
  for (int n = 0; n <= 12; ++n) EXPECT_EQ(jepa_lambda(c, n, {}), 0);
  const double expected[] = {0.025, 0.05, 0.075, 0.1};  // jepa_lambda[13:17]
  for (int n = 13; n < 17; ++n) EXPECT_DOUBLE_EQ(jepa_lambda(c, n, {}), expected[n - 13]);
  EXPECT_DOUBLE_EQ(jepa_lambda(c, 31, {}), 0.475);
  for (int n = 32; n < 40; ++n) EXPECT_EQ(jepa_lambda(c, n, {}), 0);
}

TEST(Schedule, PhasesOfDecimalSharesBeginAtTheIntegerMeant) {
  Config c = forty_steps();
  c.jepa_phase1_frac = 0.1, c.jepa_phase2_frac = 0.2, c.iterations = 10;  // 0.1 + 0.2 = 0.30000000000000004
  EXPECT_EQ(jepa_lambda(c, 1, {}), 0);
  EXPECT_DOUBLE_EQ(jepa_lambda(c, 2, {}), 0.25);
  EXPECT_EQ(jepa_lambda(c, 3, {}), 0);
}

TEST(Schedule, ModelsWithoutJepaHaveNoJepaWeight) {
  Config c = forty_steps();
  c.jepa_chunk_size = 0;
  EXPECT_EQ(jepa_lambda(c, 20, {}), 0);
}

TEST(Schedule, MomentumWarmsUpLinearly) {
  const Config c = forty_steps();
  EXPECT_DOUBLE_EQ(muon_momentum(c, 0), 0.92);
  EXPECT_DOUBLE_EQ(muon_momentum(c, 3), 0.92 + 0.07 * 0.2);
  EXPECT_DOUBLE_EQ(muon_momentum(c, 15), 0.99);
  EXPECT_DOUBLE_EQ(muon_momentum(c, 1000), 0.99);
  Config none = c;
  none.muon_momentum_warmup_steps = 0;
  EXPECT_DOUBLE_EQ(muon_momentum(none, 0), 0.99);
}

TEST(Schedule, UnderABudgetTheClockMovesTheRunWhenItIsAheadOfTheSteps) {
  Config c = forty_steps();
  c.train_budget_s = 100;
  EXPECT_EQ(equivalent_step(c, 3, {50, 1, 1}), 20);
  EXPECT_EQ(equivalent_step(c, 30, {50, 1, 1}), 30);
  EXPECT_DOUBLE_EQ(jepa_lambda(c, 3, {40, 1, 1}), 0.5 * 4 / 20);
}

TEST(Schedule, UnderABudgetTheStepSizeEndsWithTheTime) {
  Config c = forty_steps();
  c.iterations = 1000000, c.train_budget_s = 100;
  EXPECT_EQ(lr_factor(c, 0, {}), 1);                            // nothing known yet
  EXPECT_EQ(lr_factor(c, 50, {50, 1, 1.25}), 1);                // 49.75 steps to spare
  EXPECT_DOUBLE_EQ(lr_factor(c, 94, {94, 1, 1.5}), 0.55);       // 4.5 more fit after this one
  EXPECT_DOUBLE_EQ(lr_factor(c, 98, {98.5, 1, 1.5}), 1 / 10.);  // the last that fits
  c.iterations = 100;
  EXPECT_DOUBLE_EQ(lr_factor(c, 99, {50, 1, 1}), 1 / 10.);  // the steps end first
}

TEST(Schedule, TheRunEndsBeforeAStepThatWouldPassTheBudget) {
  Config c = forty_steps();
  EXPECT_FALSE(run_is_over(c, 39, {1e9, 1, 1}));
  EXPECT_TRUE(run_is_over(c, 40, {}));
  c.train_budget_s = 100;
  EXPECT_FALSE(run_is_over(c, 0, {}));
  EXPECT_FALSE(run_is_over(c, 5, {98.5, 1, 1.5}));
  EXPECT_TRUE(run_is_over(c, 5, {98.6, 1, 1.5}));
}

TEST(Schedule, SnapshotsFallOnMultiplesInTheLastPart) {
  Config c = forty_steps();
  c.swa_every = 4, c.swa_last_frac = 0.25;
  for (int n = 0; n < 40; ++n) EXPECT_EQ(takes_snapshot(c, n, {}), n == 31 || n == 35 || n == 39) << n;
  c.swa_last_frac = 0;
  EXPECT_FALSE(takes_snapshot(c, 39, {}));
}

TEST(StepTimes, PredictsMoreThanTheLongestRecentStep) {
  StepTimes times;
  EXPECT_EQ(times.predicted_s(), 0);
  times.add(2);
  times.add(1);
  EXPECT_DOUBLE_EQ(times.predicted_s(), 2.52);
  for (int i = 0; i < 16; ++i) times.add(1);
  EXPECT_DOUBLE_EQ(times.predicted_s(), 1.27);
}

}  // namespace
}  // namespace bg
