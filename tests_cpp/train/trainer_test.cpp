#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"

namespace bg {
namespace {

Config tiny() {
  Config c;
  c.num_layers = 2, c.model_dim = 16, c.num_heads = 2, c.num_kv_heads = 1, c.rope_dims = 4, c.xsa_last_n = 1;
  c.bigram_vocab_size = 16, c.bigram_dim = 4, c.bigram_init = "normal";
  c.jepa_latent_dim = 6, c.jepa_proj_hidden = 5, c.jepa_chunk_size = 4, c.jepa_lambda_max = 0.5;
  c.seq_len = 16, c.eval_stride = 8, c.micro_batch_ids = 32, c.train_batch_ids = 64;
  c.iterations = 10, c.warmdown_iters = 4, c.muon_momentum_warmup_steps = 5;
  c.ema_decay = 0.9, c.swa_every = 2, c.swa_last_frac = 0.5, c.shuffle = true;
  return c;
}

std::shared_ptr<const ShardSet> text() {
  std::vector<uint16_t> ids(3000);
  const Random random(9, "text");
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint16_t>(100 + random.below(i, 8));
  return ShardSet::of_ids(std::move(ids), kByte260);
}

// A trainer whose clock the test moves by hand.
struct TinyRun {
  double time_s = 100;
  std::shared_ptr<Model> model;
  std::shared_ptr<Loader> loader;
  std::unique_ptr<Trainer> trainer;
  explicit TinyRun(const Config& c, DType dtype = DType::f64, int threads = 1) {
    Ctx ctx;
    ctx.dtype = dtype;
    ctx.pool = std::make_shared<ThreadPool>(threads);
    model = std::make_shared<Model>(c, ctx, 3);
    loader = std::make_shared<Loader>(text(), LoaderOptions::of(c));
    trainer = std::make_unique<Trainer>(c, model, loader, [this] { return time_s; });
  }
  // All bytes that later steps depend on.
  std::string bytes() const {
    std::string out;
    for (const auto& s : trainer->state()) out.append(static_cast<const char*>(s.tensor.data()), s.tensor.size_bytes());
    return out;
  }
};

TEST(Trainer, LearnsAndFollowsItsSchedules) {
  const Config c = tiny();
  TinyRun run(c);
  std::vector<StepStats> stats;
  while (!run.trainer->done()) stats.push_back(run.trainer->step());
  ASSERT_EQ(stats.size(), 10u);
  for (int64_t n = 0; n < 10; ++n) {
    EXPECT_EQ(stats[n].step, n);
    EXPECT_EQ(stats[n].lr_factor, lr_factor(c, n, {}));
    EXPECT_EQ(stats[n].jepa_lambda, jepa_lambda(c, n, {}));
    EXPECT_EQ(stats[n].muon_momentum, muon_momentum(c, n));
    EXPECT_EQ(stats[n].ids, 64);
    EXPECT_EQ(stats[n].bytes, 64);
  }
  EXPECT_NEAR(stats[0].losses.ce, std::log(260), 0.1);
  EXPECT_LT(stats[9].losses.ce, stats[0].losses.ce);
  EXPECT_EQ(run.trainer->averages().snapshots(), 3);  // after steps 5, 7 and 9
  EXPECT_EQ(run.trainer->progress().bytes, 640);
  EXPECT_THROW(run.trainer->step(), InvalidArgument);
}

TEST(Trainer, HasTheSameBitsAtAnyThreadCountAndInAnyRun) {
  for (DType dtype : {DType::f32, DType::f64}) {
    std::vector<std::string> results;
    for (int threads : {1, 1, 3}) {
      TinyRun run(tiny(), dtype, threads);
      for (int n = 0; n < 4; ++n) run.trainer->step();
      results.push_back(run.bytes());
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
  }
}

TEST(Trainer, GoesOnFromItsStateToTheBit) {
  for (DType dtype : {DType::f32, DType::f64}) {
    TinyRun whole(tiny(), dtype), first(tiny(), dtype), second(tiny(), dtype);
    for (int n = 0; n < 8; ++n) whole.trainer->step();
    for (int n = 0; n < 6; ++n) first.trainer->step();
    const auto from = first.trainer->state(), to = second.trainer->state();
    ASSERT_EQ(from.size(), to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      ASSERT_EQ(from[i].name, to[i].name);
      std::memcpy(to[i].tensor.data(), from[i].tensor.data(), from[i].tensor.size_bytes());
    }
    second.trainer->restore(first.trainer->progress());
    for (int n = 0; n < 2; ++n) second.trainer->step();
    EXPECT_EQ(second.bytes(), whole.bytes());
    EXPECT_EQ(second.trainer->averages().snapshots(), whole.trainer->averages().snapshots());
  }
}

TEST(Trainer, MicroBatchesGiveTheMeanGradient) {
  Config c = tiny();
  c.jepa_lambda_max = 0;  // SIGReg is no mean over rows
  const Random random(4, "ids");
  std::vector<int32_t> ids(64), targets(64);
  for (size_t i = 0; i < 64; ++i) {
    ids[i] = static_cast<int32_t>(random.below(i, 260));
    targets[i] = static_cast<int32_t>(random.below(i + 64, 260));
  }
  std::vector<std::vector<double>> weights;
  std::vector<double> norms;
  for (int64_t parts : {1, 2, 4}) {
    TinyRun run(c);
    norms.push_back(run.trainer->step_on(ids, targets, 4, 16, parts).grad_norm);
    const Tensor grads = run.model->params().grads();
    weights.emplace_back(grads.ptr<double>(), grads.ptr<double>() + grads.numel());
  }
  for (int k = 1; k < 3; ++k) {
    EXPECT_NEAR(norms[k] / norms[0], 1, 1e-12);
    for (size_t i = 0; i < weights[0].size(); ++i) ASSERT_NEAR(weights[k][i], weights[0][i], 1e-14);
  }
  TinyRun run(c);
  EXPECT_THROW(run.trainer->step_on(ids, targets, 4, 16, 3), InvalidArgument);
}

TEST(Trainer, CountsOnlyTargetsThatStandForBytes) {
  Config c = tiny();
  TinyRun run(c);
  std::vector<int32_t> ids(16, 5), targets(16, 100);
  targets[0] = 1, targets[1] = -1, targets[2] = 4;
  const StepStats stats = run.trainer->step_on(ids, targets, 1, 16);
  EXPECT_EQ(stats.ids, 15);
  EXPECT_EQ(stats.bytes, 14);
}

TEST(Trainer, AveragesStartAtTheWeightsOfTheFirstStep) {
  Config c = tiny();
  c.matrix_lr = c.scalar_lr = c.tied_embed_lr = c.head_lr = c.jepa_lr = 0;
  TinyRun run(c);
  const Tensor values = run.model->params().values();
  for (const ParamSpec& spec : run.model->params().specs())  // loaded after the trainer was made
    for (int64_t i = 0; i < spec.shape.numel(); ++i) spec.handle->value.ptr<double>()[i] += 0.25;
  const std::vector<double> before(values.ptr<double>(), values.ptr<double>() + values.numel());
  run.trainer->step();
  EXPECT_EQ(std::vector<double>(values.ptr<double>(), values.ptr<double>() + values.numel()), before);
  for (const ParamSpec& spec : run.model->params().specs()) {
    if (spec.averaging == Averaging::off) continue;
    const Tensor mean = ParamTable::view(spec, run.trainer->averages().ema());
    EXPECT_EQ(std::memcmp(mean.data(), spec.handle->value.data(), mean.size_bytes()), 0) << spec.name;
  }
}

TEST(Trainer, NanInAWeightStopsTheStepNamesItAndChangesNothing) {
  TinyRun run(tiny());
  run.trainer->step();
  const ParamSpec& spec = run.model->params().specs()[1];
  for (int64_t i = 0; i < spec.shape.numel(); ++i) spec.handle->value.ptr<double>()[i] = std::nan("");
  const std::string before = run.bytes();
  try {
    run.trainer->step();
    FAIL() << "not refused";
  } catch (const NumericsError& error) {
    EXPECT_NE(std::string(error.what()).find("step 1 :"), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find(spec.name), std::string::npos) << error.what();
  }
  EXPECT_EQ(run.bytes(), before);
  EXPECT_EQ(run.trainer->progress().step, 1);
}

TEST(Trainer, EndsWithinItsBudgetAndTheStepSizeEndsThere) {
  Config c = tiny();
  c.iterations = 1000000, c.train_budget_s = 100, c.warmdown_iters = 20;
  TinyRun run(c);
  StepStats last;
  std::vector<double> factors;
  while (!run.trainer->done()) {
    const double started = run.time_s;
    last = run.trainer->step();
    run.time_s = started + 1 + 0.2 * std::sin(static_cast<double>(last.step));
    factors.push_back(last.lr_factor);
  }
  // The clock moves between steps here, so that no step length is known: the end is found by the elapsed time alone.
  EXPECT_LE(run.trainer->progress().elapsed_s, 100 + 1.2);
  EXPECT_NEAR(static_cast<double>(factors.size()), 100, 2);
  EXPECT_EQ(factors.front(), 1);
  EXPECT_NEAR(factors.back(), 1 / 20., 1 / 20.);
  for (size_t i = 1; i < factors.size(); ++i) EXPECT_LE(factors[i], factors[i - 1] + 0.01);
}

TEST(Trainer, AClockThatGoesBackTakesNoTimeAwayAndItsStateCanBeRestored) {
  Config c = tiny();
  c.iterations = 1000;
  TinyRun run(c);
  double before = 0, expected = 0;
  for (const double to : {101., 103., 50., 52., -1e8, -1e8 + 4, 7.}) {  // forwards by 1, 2, 2, 4 and 1e8 + 3 s
    expected += std::max(0., to - run.time_s);
    run.trainer->step();
    run.time_s = to;
    const Progress p = run.trainer->progress();
    EXPECT_DOUBLE_EQ(p.elapsed_s, expected);
    EXPECT_GE(p.elapsed_s, before);
    EXPECT_NO_THROW(run.trainer->check(p));
    before = p.elapsed_s;
  }
}

TEST(Trainer, BeginsNoStepThatIsNotExpectedToEndWithinARealBudget) {
  Config c = tiny();
  c.iterations = 1000000, c.train_budget_s = 0.3, c.warmdown_iters = 10;
  TinyRun run(c, DType::f32);
  Trainer trainer(c, run.model, run.loader);
  StepTimes times;
  StepStats last;
  while (!trainer.done()) {
    // At or before the moment at which done() looked at its clock. Nothing is asserted of the moments after it: how
    // long the machine lets the step wait is not the trainer's to know.
    EXPECT_LE(last.elapsed_s + times.predicted_s(), 0.3);
    last = trainer.step();
    times.add(last.seconds);
  }
  EXPECT_GT(trainer.progress().elapsed_s + times.predicted_s(), 0.3);  // nor does it end while another step fits
}

TEST(Trainer, AStepThatWasGrantedBeginsHoweverLateItIs) {
  Config c = tiny();
  c.train_budget_s = 50;
  TinyRun run(c);
  run.trainer->step();
  run.time_s += 10;
  EXPECT_FALSE(run.trainer->done());
  run.time_s += 100;
  EXPECT_EQ(run.trainer->step().step, 1);
  EXPECT_TRUE(run.trainer->done());
  EXPECT_THROW(run.trainer->step(), InvalidArgument);
}

TEST(Trainer, PauseStopsTheClock) {
  Config c = tiny();
  c.train_budget_s = 50;
  TinyRun run(c);
  run.trainer->step();
  run.time_s += 7;
  run.trainer->pause();
  run.time_s += 1000;
  EXPECT_EQ(run.trainer->progress().elapsed_s, 7);
  EXPECT_FALSE(run.trainer->done());
  run.trainer->step();
  run.time_s += 50;
  EXPECT_TRUE(run.trainer->done());
  EXPECT_THROW(run.trainer->step(), InvalidArgument);
}

TEST(Trainer, RefusesAModelOfOtherOptionsAndMissingData) {
  TinyRun run(tiny());
  Config other = tiny();
  other.num_layers = 3;
  EXPECT_THROW(Trainer(other, run.model, run.loader), InvalidArgument);
  EXPECT_THROW(Trainer(tiny(), nullptr, run.loader), InvalidArgument);
  Trainer without(tiny(), run.model, nullptr);
  EXPECT_THROW(without.step(), InvalidArgument);
}

}  // namespace
}  // namespace bg
