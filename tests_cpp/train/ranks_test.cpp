// Training on several ranks is training on one: the same losses from the same global batch, equal bits everywhere, and
// the same words on every rank when something goes wrong on one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <vector>

#include "base/random.h"
#include "optim/muon.h"
#include "tensor/transfer.h"
#include "testing/op_case.h"
#include "testing/ranks.h"
#include "train/trainer.h"

namespace bg {
namespace {

using ::testing::HasSubstr;

Config tiny() {
  Config c;
  c.num_layers = 3, c.model_dim = 16, c.num_heads = 2, c.num_kv_heads = 1, c.rope_dims = 4, c.xsa_last_n = 1;
  c.bigram_vocab_size = 16, c.bigram_dim = 4, c.bigram_init = "normal";
  c.jepa_latent_dim = 6, c.jepa_proj_hidden = 5, c.jepa_chunk_size = 4, c.jepa_lambda_max = 0.5;
  c.seq_len = 16, c.eval_stride = 8, c.micro_batch_ids = 32, c.train_batch_ids = 128;
  c.iterations = 10, c.warmdown_iters = 4, c.muon_momentum_warmup_steps = 5;
  c.ema_decay = 0.9, c.swa_every = 2, c.swa_last_frac = 0.5;
  return c;
}

std::shared_ptr<const ShardSet> text() {
  std::vector<uint16_t> ids(3000);
  const Random random(9, "text");
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint16_t>(100 + random.below(i, 8));
  return ShardSet::of_ids(std::move(ids), kByte260);
}

Ctx cpu(DType dtype) {
  Ctx ctx;
  ctx.dtype = dtype;
  ctx.pool = std::make_shared<ThreadPool>(1);
  return ctx;
}

std::unique_ptr<Trainer> trainer_of(const Config& c, const Ctx& ctx, const std::shared_ptr<Comm>& comm,
                                    uint64_t seed = 3) {
  const int64_t rank = comm ? comm->rank() : 0, world = comm ? comm->world() : 1;
  return std::make_unique<Trainer>(c, std::make_shared<Model>(c, ctx, seed),
                                   std::make_shared<Loader>(text(), LoaderOptions::of(c, rank, world)),
                                   std::function<double()>(), comm);
}

struct Course {
  std::vector<StepStats> steps;
  std::vector<double> weights, ema;
  std::vector<std::pair<std::string, uint64_t>> fingerprints;
};

Course train(Trainer& trainer) {
  Course course;
  while (!trainer.done()) course.steps.push_back(trainer.step());
  const Ctx& ctx = trainer.model().ctx();
  course.weights = download(ctx, trainer.model().params().values());
  course.ema = download(ctx, trainer.averages().ema());
  course.fingerprints = trainer.fingerprints();
  return course;
}

void expect_same_course(const Course& got, const Course& want, double tolerance) {
  ASSERT_EQ(got.steps.size(), want.steps.size());
  for (size_t n = 0; n < want.steps.size(); ++n) {
    EXPECT_NEAR(got.steps[n].losses.ce, want.steps[n].losses.ce, tolerance) << n;
    EXPECT_NEAR(got.steps[n].losses.jepa_pred, want.steps[n].losses.jepa_pred, tolerance) << n;
    EXPECT_NEAR(got.steps[n].losses.jepa_sigreg, want.steps[n].losses.jepa_sigreg, 10 * tolerance) << n;
    EXPECT_NEAR(got.steps[n].grad_norm, want.steps[n].grad_norm, tolerance) << n;
    EXPECT_EQ(got.steps[n].ids, want.steps[n].ids);
    EXPECT_EQ(got.steps[n].bytes, want.steps[n].bytes);
  }
  for (size_t i = 0; i < want.weights.size(); ++i) ASSERT_NEAR(got.weights[i], want.weights[i], tolerance) << i;
  for (size_t i = 0; i < want.ema.size(); ++i) ASSERT_NEAR(got.ema[i], want.ema[i], tolerance) << i;
}

TEST(Ranks, HaveTheLossesAndWeightsOfOneRankWithTheSameGlobalBatch) {
  for (const char* shuffle : {"false", "true"}) {
    Config c = tiny();
    c.set("shuffle", shuffle);
    const Course alone = train(*trainer_of(c, cpu(DType::f64), nullptr));
    for (const int64_t world : {2, 4}) {  // 2 and 1 micro-batches a rank
      SCOPED_TRACE(world);
      std::vector<Course> courses(static_cast<size_t>(world));
      run_ranks(world, [&](const std::shared_ptr<Comm>& comm) {
        courses[static_cast<size_t>(comm->rank())] = train(*trainer_of(c, cpu(DType::f64), comm));
      });
      for (const Course& course : courses) {
        expect_same_course(course, alone, 1e-11);
        EXPECT_EQ(course.fingerprints, courses[0].fingerprints);
      }
    }
  }
}

TEST(Ranks, BeginWithRankZerosWeights) {
  std::vector<std::vector<double>> weights(2);
  run_ranks(2, [&](const std::shared_ptr<Comm>& comm) {
    const auto trainer = trainer_of(tiny(), cpu(DType::f32), comm, comm->rank() == 0 ? 3 : 4);
    weights[static_cast<size_t>(comm->rank())] = download(trainer->model().ctx(), trainer->model().params().values());
  });
  EXPECT_EQ(weights[1], weights[0]);
}

TEST(Ranks, TellWhoseWeightsAreOthers) {
  std::vector<std::vector<std::pair<std::string, uint64_t>>> found(2);
  run_ranks(2, [&](const std::shared_ptr<Comm>& comm) {
    const auto trainer = trainer_of(tiny(), cpu(DType::f32), comm);
    trainer->step();
    if (comm->rank() == 1)
      trainer->model().params().find("blocks.1.mlp.fc.weight")->handle->value.ptr<float>()[5] += 1e-6f;
    found[static_cast<size_t>(comm->rank())] = trainer->fingerprints();
  });
  ASSERT_EQ(found[0].size(), found[1].size());
  for (size_t i = 0; i < found[0].size(); ++i)
    EXPECT_EQ(found[0][i] == found[1][i], found[0][i].first != "weights/blocks.1.mlp.fc.weight") << found[0][i].first;
}

// Every rank throws, and names rank 1 and what is wrong there; no weight has moved.
void expect_refused(const std::function<void(Trainer&)>& spoil, const char* at_home, const char* elsewhere) {
  std::vector<std::string> said(3);
  run_ranks(3, [&](const std::shared_ptr<Comm>& comm) {
    Config c = tiny();
    c.train_batch_ids = 32 * 2 * 3;
    const auto trainer = trainer_of(c, cpu(DType::f64), comm);
    trainer->step();
    if (comm->rank() == 1) spoil(*trainer);
    const auto before = trainer->fingerprints();
    try {
      trainer->step();
    } catch (const NumericsError& error) {
      said[static_cast<size_t>(comm->rank())] = error.what();
    }
    EXPECT_EQ(trainer->fingerprints(), before);
  });
  EXPECT_THAT(said[1], HasSubstr("step 1 : rank 1: "));
  EXPECT_THAT(said[1], HasSubstr(at_home));
  for (const size_t r : {size_t{0}, size_t{2}}) {
    EXPECT_THAT(said[r], HasSubstr("step 1 : rank 1: "));
    EXPECT_THAT(said[r], HasSubstr(elsewhere));
  }
}

TEST(Ranks, ALossThatIsNotFiniteStopsAllOfThemByName) {
  expect_refused(
      [](Trainer& trainer) {
        trainer.model().params().find("tok_emb.weight")->handle->value.ptr<double>()[16 * 104] =
            std::numeric_limits<double>::quiet_NaN();
      },
      "loss ce is nan", "a loss is not finite");
}

TEST(Ranks, WithABudgetGoByOneClock) {
  Config c = tiny();
  c.train_budget_s = 1000;
  run_ranks(2, [&](const std::shared_ptr<Comm>& comm) {
    const auto trainer = trainer_of(c, cpu(DType::f32), comm);
    EXPECT_THROW(trainer->step(), InvalidArgument);
    trainer->agree({0, 0, 0});
    EXPECT_EQ(trainer->step().lr_factor, 1);
    trainer->agree({600, 100, 100});  // 4 steps fit behind this one's begin, half of the fall of 4... see lr_factor()
    EXPECT_FALSE(trainer->done());
    EXPECT_EQ(trainer->step().lr_factor, lr_factor(c, 1, {600, 100, 100}));
    trainer->agree({990, 100, 100});
    EXPECT_TRUE(trainer->done());
  });
}

TEST(Ranks, AGlobalBatchThatDoesNotDivideIsRefused) {
  EXPECT_THROW(LoaderOptions::of(tiny(), 0, 3), InvalidArgument);
}

TEST(MuonShares, EveryMatrixHasOneOwnerAndTheLoadIsEven) {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (int layer = 0; layer < 13; ++layer)
    shapes.insert(shapes.end(), {{512, 512}, {256, 512}, {256, 512}, {512, 512}, {1024, 512}, {512, 1024}});
  const auto cost = [](std::pair<int64_t, int64_t> s) {
    const double m = static_cast<double>(std::min(s.first, s.second)),
                 n = static_cast<double>(std::max(s.first, s.second));
    return m * m * (2 * n + m);
  };
  for (const int64_t world : {1, 2, 8, 100}) {
    const std::vector<int> owner = share_out(shapes, world);
    ASSERT_EQ(owner.size(), shapes.size());
    std::vector<double> load(static_cast<size_t>(world), 0);
    double all = 0, largest = 0;
    for (size_t i = 0; i < shapes.size(); ++i) {
      ASSERT_GE(owner[i], 0);
      ASSERT_LT(owner[i], world);
      load[static_cast<size_t>(owner[i])] += cost(shapes[i]);
      all += cost(shapes[i]), largest = std::max(largest, cost(shapes[i]));
    }
    // Graham 1969: handing the next job to whoever has least never ends above this.
    EXPECT_LE(*std::max_element(load.begin(), load.end()), all / static_cast<double>(world) + largest);
  }
}

int gpus() {
  const GpuInfo info = gpu_info();
  return info.unusable.empty() ? static_cast<int>(info.gpus.size()) : 0;
}

#define BG_NEEDS_TWO_GPUS() \
  if (gpus() < 2) GTEST_SKIP() << "needs two GPUs that bytegolf can use, here are " << gpus()

void run_on_gpus(int64_t world, DType dtype,
                 const std::function<void(const std::shared_ptr<Comm>&, const Ctx&)>& body) {
  const std::vector<uint8_t> id = nccl_unique_id();
  std::vector<Ctx> contexts(static_cast<size_t>(world));
  run_ranks(
      world,
      [&](int64_t rank) {
        Ctx& ctx = contexts[static_cast<size_t>(rank)];
        ctx = make_ctx(Device::cuda, dtype, 2, static_cast<int>(rank));
        return make_nccl_comm(ctx, rank, world, id);
      },
      [&](const std::shared_ptr<Comm>& comm) { body(comm, contexts[static_cast<size_t>(comm->rank())]); });
}

TEST(NcclComm, SumsGathersAndBroadcasts) {
  BG_NEEDS_TWO_GPUS();
  run_on_gpus(2, DType::f32, [](const std::shared_ptr<Comm>& comm, const Ctx& ctx) {
    const int64_t n = 1 << 20;
    const Buffer memory(static_cast<size_t>(2 * n) * 4, Device::cuda);
    const Tensor x(memory.data(), {2 * n}, DType::f32, Device::cuda);
    const auto filled = [&](double v) { return std::vector<double>(static_cast<size_t>(2 * n), v); };
    upload(ctx, filled(1 + static_cast<double>(comm->rank())), x);
    comm->all_reduce(x);
    comm->join();
    EXPECT_EQ(download(ctx, x), filled(3));
    upload(ctx, filled(10 + static_cast<double>(comm->rank())), x);
    comm->all_gather(x);
    comm->join();
    const std::vector<double> gathered = download(ctx, x);
    EXPECT_EQ(gathered[0], 10);
    EXPECT_EQ(gathered[static_cast<size_t>(n - 1)], 10);
    EXPECT_EQ(gathered[static_cast<size_t>(n)], 11);
    EXPECT_EQ(gathered[static_cast<size_t>(2 * n - 1)], 11);
    upload(ctx, filled(20 + static_cast<double>(comm->rank())), x);
    comm->broadcast(x);
    comm->join();
    EXPECT_EQ(download(ctx, x), filled(20));
  });
}

TEST(RanksOnGpus, HaveTheLossesAndWeightsOfOneRankAndEqualBits) {
  BG_NEEDS_TWO_GPUS();
  Config c = tiny();
  c.iterations = 30;  // from the third on recorded steps
  const Course alone = train(*trainer_of(c, cpu(DType::f64), nullptr));
  std::vector<Course> courses(2);
  run_on_gpus(2, DType::f32, [&](const std::shared_ptr<Comm>& comm, const Ctx& ctx) {
    courses[static_cast<size_t>(comm->rank())] = train(*trainer_of(c, ctx, comm));
  });
  EXPECT_EQ(courses[1].fingerprints, courses[0].fingerprints);
  ASSERT_EQ(courses[0].steps.size(), alone.steps.size());
  for (size_t n = 0; n < alone.steps.size(); ++n) {
    EXPECT_NEAR(courses[0].steps[n].losses.ce, alone.steps[n].losses.ce, 1e-3) << n;
    EXPECT_EQ(courses[0].steps[n].bytes, alone.steps[n].bytes);
    EXPECT_EQ(courses[1].steps[n].losses.ce, courses[0].steps[n].losses.ce) << n;
  }
}

// The sum of two ranks' gradients is the sum of two micro-batches', and how a matrix is made orthogonal does not depend
// on how many its rank has.
TEST(RanksOnGpus, TwoHaveTheBitsOfOneWithTwoMicroBatches) {
  BG_NEEDS_TWO_GPUS();
  Config c = tiny();
  c.model_dim = 128, c.num_heads = 4, c.num_kv_heads = 2, c.rope_dims = 16, c.seq_len = 128, c.eval_stride = 64;
  c.micro_batch_ids = 512, c.train_batch_ids = 1024, c.iterations = 20;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Course alone = train(*trainer_of(c, make_ctx(Device::cuda, dtype, 2), nullptr));
    run_on_gpus(2, dtype, [&](const std::shared_ptr<Comm>& comm, const Ctx& ctx) {
      const Course course = train(*trainer_of(c, ctx, comm));
      EXPECT_EQ(course.fingerprints, alone.fingerprints) << name_of(dtype);
    });
  }
}

TEST(RanksOnGpus, ALossThatIsNotFiniteStopsAllOfThemByName) {
  BG_NEEDS_TWO_GPUS();
  std::vector<std::string> said(2);
  run_on_gpus(2, DType::bf16, [&](const std::shared_ptr<Comm>& comm, const Ctx& ctx) {
    const auto trainer = trainer_of(tiny(), ctx, comm);
    for (int n = 0; n < 3; ++n) trainer->step();
    if (comm->rank() == 1) {
      const Tensor table = trainer->model().params().find("tok_emb.weight")->handle->value;
      upload(ctx, std::vector<double>{std::numeric_limits<double>::quiet_NaN()},
             table.reshape({table.numel()}).slice(0, 16 * 104, 16 * 104 + 1));
      trainer->model().params().refresh_operands(ctx);
    }
    const auto before = trainer->fingerprints();
    try {
      trainer->step();
    } catch (const NumericsError& error) {
      said[static_cast<size_t>(comm->rank())] = error.what();
    }
    EXPECT_EQ(trainer->fingerprints(), before);
  });
  for (const std::string& words : said) EXPECT_THAT(words, HasSubstr("step 3 : rank 1: "));
}

}  // namespace
}  // namespace bg
