#include "ranks/buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "testing/tiny_models.h"

namespace bg {
namespace {

// Notes what it is asked for.
class Notes final : public Comm {
 public:
  struct Sum {
    const char* at;
    int64_t bytes;
  };
  std::vector<Sum> sums;
  int joins = 0;
  Notes() : Comm(0, 2) {}
  void all_reduce(Tensor x) override {
    sums.push_back({static_cast<const char*>(x.data()), static_cast<int64_t>(x.size_bytes())});
  }
  void all_gather(Tensor) override {}
  void broadcast(Tensor) override {}
  void join() override { ++joins; }
};

struct Backward {
  TinyModel tiny = tiny_model("byte260-jepa", "num_layers = 4", 2, 16);
  std::unique_ptr<Model> model = random_model(tiny.config, DType::f32);
  Notes notes;
  // One backward pass; returns the elements summed while it ran.
  size_t run(Buckets& buckets) {
    model->loss(tiny.ids, tiny.targets, tiny.B, tiny.T, 0.5);
    model->on_gradients([&](size_t first, size_t last) { buckets.ready(first, last); });
    model->backward();
    model->on_gradients({});
    const size_t during = notes.sums.size();
    buckets.finish();
    return during;
  }
};

TEST(Buckets, SumEveryGradientOnceWhateverTheirSize) {
  for (const int64_t bytes : {int64_t{1}, int64_t{4000}, int64_t{1} << 40}) {
    Backward b;
    const ParamTable& params = b.model->params();
    Buckets buckets(b.notes, params, bytes);
    for (int step = 0; step < 2; ++step) {
      b.notes.sums.clear();
      b.run(buckets);
      std::vector<int> times(static_cast<size_t>(params.arena_numel()), 0);
      const char* const base = static_cast<const char*>(params.grads().data());
      for (const Notes::Sum& sum : b.notes.sums)
        for (int64_t i = 0; i < sum.bytes / 4; ++i) ++times[static_cast<size_t>((sum.at - base) / 4 + i)];
      for (const ParamSpec& spec : params.specs())
        for (int64_t i = 0; i < spec.shape.numel(); ++i)
          ASSERT_EQ(times[static_cast<size_t>(spec.offset + i)], 1) << spec.name << " " << i << " " << bytes;
    }
    EXPECT_EQ(b.notes.joins, 2);
  }
}

TEST(Buckets, TravelWhileBackwardRunsLastBlocksFirst) {
  Backward b;
  const ParamTable& params = b.model->params();
  const auto [lo, hi] = params.range(Group::matrix);
  Buckets buckets(b.notes, params, (hi - lo) * 4 / 3);
  const size_t during = b.run(buckets);
  ASSERT_GE(during, 2u);
  EXPECT_GT(b.notes.sums[0].at, b.notes.sums[1].at);
  const char* const base = static_cast<const char*>(params.grads().data());
  // The first holds the matrices of block 3, which nothing behind it in backward changes.
  const auto& proj = *params.find("blocks.3.mlp.proj.weight");
  EXPECT_LE(b.notes.sums[0].at, base + proj.offset * 4);
  EXPECT_GE(b.notes.sums[0].at + b.notes.sums[0].bytes, base + (proj.offset + proj.shape.numel()) * 4);
}

TEST(Buckets, SmallNeighboursTravelTogether) {
  Backward b;
  Buckets buckets(b.notes, b.model->params(), int64_t{1} << 40);
  EXPECT_EQ(b.run(buckets), 0u);
  EXPECT_EQ(b.notes.sums.size(), 1u) << "all gradients lie side by side";
}

TEST(Buckets, AGradientThatIsFinalTwiceIsRefused) {
  Backward b;
  Buckets buckets(b.notes, b.model->params(), int64_t{1} << 40);
  buckets.ready(0, 2);
  EXPECT_THROW(buckets.ready(1, 3), InvalidArgument);
  EXPECT_THROW(buckets.ready(0, 10000), InvalidArgument);
}

// What is announced as final must not change afterwards: the sums travel already.
TEST(Buckets, GradientsAreFinalWhenTheyAreAnnounced) {
  for (const TinyModel& tiny : tiny_models()) {
    SCOPED_TRACE(tiny.name);
    const auto model = random_model(tiny.config, DType::f64);
    const ParamTable& params = model->params();
    std::vector<std::pair<size_t, std::string>> announced;
    model->zero_gradients();
    model->loss(tiny.ids, tiny.targets, tiny.B, tiny.T, 0.5);
    model->on_gradients([&](size_t first, size_t last) {
      for (size_t i = first; i < last; ++i) announced.emplace_back(i, bits_of(params.specs()[i].handle->grad));
    });
    model->backward();
    EXPECT_FALSE(announced.empty());
    for (const auto& [i, bits] : announced)
      EXPECT_EQ(bits, bits_of(params.specs()[i].handle->grad)) << params.specs()[i].name;
  }
}

}  // namespace
}  // namespace bg
