#include "kernels/segment.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

// Runs of a batch, and the run of every position written out.
struct Runs {
  std::string name;
  int64_t B, T, P, K = 0, lead = 0;  // K = 0: listed
  std::vector<int32_t> start, of;

  // The segments where r works.
  Segments in(OpRun& r) const {
    if (K > 0) return Segments::equal(T, K, lead);
    return Segments::listed(r.give(Owned::ids({B, P}, start)), r.give(Owned::ids({B, T}, of)));
  }
  // What the mean of a run divides by.
  double divisor(int64_t b, int64_t p) const {
    const auto row = of.begin() + b * T;
    return static_cast<double>(K > 0 ? K : std::max<int64_t>(1, std::count(row, row + T, p)));
  }
};

Runs equal(int64_t B, int64_t T, int64_t K, int64_t lead) {
  Runs runs{words("equal", B, T, K, lead), B, T, 0, K, lead, {}, std::vector<int32_t>(B * T, -1)};
  while ((runs.P + 1) * K - lead <= T) ++runs.P;  // runs that end in the row
  for (int64_t b = 0; b < B; ++b)
    for (int64_t p = 0; p < runs.P; ++p)
      for (int64_t t = p * K - lead; t < (p + 1) * K - lead; ++t)
        if (t >= 0) runs.of[b * T + t] = static_cast<int32_t>(p);
  return runs;
}
Runs whole(int64_t B, int64_t T, int64_t K) {
  return equal(B, T, K, 0);
}
Runs ending_at_multiples(int64_t B, int64_t J, int64_t K) {
  return equal(B, J * K, K, K - 1);
}
// Random runs of 0 to 2 T/P positions, some after positions that belong to none; those that find no room are empty.
Runs random_runs(int64_t B, int64_t T, int64_t P) {
  Runs runs{words("listed", B, T, P), B, T, P, 0, 0, {}, std::vector<int32_t>(B * T, -1)};
  const Random random(29, runs.name);
  uint64_t draw = 0;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t p = 0, t = 0; p < P; ++p) {
      if (random.below(draw++, 4) == 0) t = std::min<int64_t>(T, t + 1 + static_cast<int64_t>(random.below(draw++, 3)));
      runs.start.push_back(static_cast<int32_t>(t));
      for (auto n = random.below(draw++, 2 * T / P + 2); n > 0 && t < T; --n, ++t)
        runs.of[b * T + t] = static_cast<int32_t>(p);
    }
  return runs;
}
// Every case that a run can be: empty ones first, in the middle and last, single positions, positions without a run
// before, between and after, one run that is the whole row, a row without any.
Runs all_kinds() {
  return {"listed by hand",
          4,
          7,
          5,
          0,
          0,
          {1, 1, 3, 5, 5, 0, 0, 0, 7, 7, 0, 1, 2, 3, 4, 2, 2, 2, 2, 2},
          {-1, 1, -1, 2, 2, 4, -1, 2, 2, 2, 2, 2, 2, 2, 0, 1, 2, 3, 4, 4, 4, -1, -1, -1, -1, -1, -1, -1}};
}

OpCase mean(const Runs& runs, int64_t D) {
  OpCase c;
  c.name = words("segment_mean", runs.name, D);
  c.inputs = {{"x", {runs.B, runs.T, D}}};
  c.outputs = {{{runs.B, runs.P, D}}};
  c.forward = [=](OpRun& r) { segment_mean_forward(r.ctx, r.in[0], runs.in(r), r.out[0]); };
  c.backward = [=](OpRun& r) { segment_mean_backward(r.ctx, r.dout[0], runs.in(r), r.din[0]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out(runs.B * runs.P * D, 0);
    for (int64_t n = 0; n < runs.B * runs.T; ++n)
      for (int64_t i = 0; runs.of[n] >= 0 && i < D; ++i)
        out[(n / runs.T * runs.P + runs.of[n]) * D + i] += in[0][n * D + i] / runs.divisor(n / runs.T, runs.of[n]);
    return Lists{out};
  };
  return c;
}

OpCase add(const Runs& runs, int64_t D) {
  const Shape shape{runs.B, runs.T, D};
  OpCase c;
  c.name = words("segment_add", runs.name, D);
  c.inputs = {{"a", {runs.B, runs.P, D}}};
  c.outputs = {{shape}};
  c.forward = [=](OpRun& r) {
    copy_tensor(r.ctx, r.constant(shape, "stream"), r.out[0]);
    segment_add_forward(r.ctx, r.in[0], runs.in(r), r.out[0]);
  };
  c.backward = [=](OpRun& r) { segment_add_backward(r.ctx, r.dout[0], runs.in(r), r.din[0]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> x = Owned::normal(DType::f64, shape, "stream").values();
    for (int64_t n = 0; n < runs.B * runs.T; ++n)
      for (int64_t i = 0; runs.of[n] >= 0 && i < D; ++i)
        x[n * D + i] += in[0][(n / runs.T * runs.P + runs.of[n]) * D + i];
    return Lists{x};
  };
  return c;
}

OpCase pick(const Runs& runs, int64_t D) {
  OpCase c;
  c.name = words("segment_pick", runs.name, D);
  c.inputs = {{"x", {runs.B, runs.T, D}, Write::add}};
  c.outputs = {{{runs.B, runs.P, D}}};
  c.forward = [=](OpRun& r) { segment_pick_forward(r.ctx, r.in[0], runs.in(r), r.out[0]); };
  c.backward = [=](OpRun& r) { segment_pick_backward(r.ctx, r.dout[0], runs.in(r), r.din[0]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out(runs.B * runs.P * D, 0);
    for (int64_t n = runs.B * runs.T - 1; n >= 0; --n)  // the first one is written last
      for (int64_t i = 0; runs.of[n] >= 0 && i < D; ++i)
        out[(n / runs.T * runs.P + runs.of[n]) * D + i] = in[0][n * D + i];
    return Lists{out};
  };
  return c;
}

// Equal runs: T a multiple of K, not one, and shorter than one run.
template <class Make>
std::vector<OpCase> small(Make make) {
  return {make(whole(1, 1, 1), 1),
          make(whole(3, 8, 4), 3),
          make(whole(2, 11, 4), 17),
          make(whole(2, 3, 4), 5),
          make(whole(1, 7, 7), 3),
          make(ending_at_multiples(1, 1, 1), 1),
          make(ending_at_multiples(3, 1, 2), 3),
          make(ending_at_multiples(1, 3, 3), 17),
          make(ending_at_multiples(3, 5, 4), 5),
          make(ending_at_multiples(2, 2, 7), 3),
          make(equal(2, 11, 4, 2), 3),
          make(all_kinds(), 3),
          make(random_runs(1, 1, 1), 1),
          make(random_runs(3, 20, 6), 5),
          make(random_runs(2, 9, 20), 17)};
}
template <class Make>
std::vector<OpCase> large(Make make) {
  return {make(whole(2, 203, 8), 512), make(ending_at_multiples(2, 40, 4), 128), make(random_runs(2, 203, 60), 67)};
}
template <class Make>
std::vector<OpCase> cuda(Make make) {
  return {make(whole(3, 1027, 8), 512),
          make(whole(3, 1027, 8), 100),
          make(whole(2, 333, 5), 5),
          make(ending_at_multiples(2, 500, 4), 512),
          make(ending_at_multiples(3, 301, 3), 100),
          make(ending_at_multiples(2, 77, 11), 5),
          make(random_runs(3, 1027, 250), 512),
          make(random_runs(3, 1027, 250), 100),
          make(random_runs(2, 4096, 3), 8),
          make(random_runs(2, 333, 400), 5)};
}

BG_PROVE_OP(SegmentMean, small(mean), large(mean))
BG_PROVE_OP(SegmentAdd, small(add), large(add))
BG_PROVE_OP(SegmentPick, small(pick), large(pick))
BG_PROVE_CUDA(SegmentMean, cuda(mean))
BG_PROVE_CUDA(SegmentAdd, cuda(add))
BG_PROVE_CUDA(SegmentPick, cuda(pick))

// Float32 means with every rounding written out: sums in the order of positions, then times the rounded 1/K where all
// runs are whole, else divided. Listed runs that are equal round alike, up to that choice.
void prove_rounding(const Ctx& ctx) {
  for (int64_t K : {3, 4, 7})
    for (bool leading : {false, true}) {
      const int64_t B = 2, T = 8 * K, D = 24;
      const Runs runs = equal(B, T, K, leading ? K - 1 : 0);
      Runs listed = runs;
      listed.K = 0;
      for (int64_t b = 0; b < B; ++b)
        for (int64_t p = 0; p < runs.P; ++p)
          listed.start.push_back(static_cast<int32_t>(std::max<int64_t>(0, p * K - runs.lead)));
      const Owned x = Owned::normal(DType::f32, {B, T, D}, "x");
      OpRun r;
      r.ctx = ctx;
      r.given.reserve(16);
      const Tensor there = r.give(x), means = r.give(Owned(DType::f32, {B, runs.P, D})),
                   sums = r.give(Owned(DType::f32, {B, runs.P, D}));
      Owned want(DType::f32, {B, runs.P, D}), want_sums(DType::f32, {B, runs.P, D}), got = want.to(context(DType::f32));
      const auto expect = [&](const Owned& wanted, Tensor t, const char* what) {
        copy_bytes(ctx, got.view().data(), Device::cpu, t.data(), t.device(), t.size_bytes());
        EXPECT_TRUE(got.bits() == wanted.bits()) << what << " of " << runs.name;
      };
      const auto add_up = [&](int64_t b, int64_t p, int64_t i) {
        float sum = 0;
        for (int64_t t = 0; t < T; ++t)
          if (runs.of[b * T + t] == p) sum += x.view().ptr<float>()[(b * T + t) * D + i];
        return sum;
      };
      const float inverse = 1 / static_cast<float>(K);
      for (int64_t b = 0; b < B; ++b)
        for (int64_t p = 0; p < runs.P; ++p)
          for (int64_t i = 0; i < D; ++i) {
            const float sum = add_up(b, p, i);
            const int64_t at = (b * runs.P + p) * D + i;
            want_sums.view().ptr<float>()[at] = sum;
            want.view().ptr<float>()[at] = leading ? sum / static_cast<float>(K) : sum * inverse;
          }
      segment_mean_forward(ctx, there, runs.in(r), means);
      expect(want, means, "means");
      segment_add_backward(ctx, there, runs.in(r), sums);
      expect(want_sums, sums, "sums");
      segment_add_backward(ctx, there, listed.in(r), sums);
      expect(want_sums, sums, "sums of listed runs");
      for (int64_t b = 0; b < B; ++b)
        for (int64_t p = 0; p < runs.P; ++p)
          for (int64_t i = 0; i < D; ++i)
            want.view().ptr<float>()[(b * runs.P + p) * D + i] =
                add_up(b, p, i) / static_cast<float>(leading && p == 0 ? 1 : K);
      segment_mean_forward(ctx, there, listed.in(r), means);
      expect(want, means, "means of listed runs");
    }
}

TEST(SegmentMean, RoundsAsItsContractSays) {
  prove_rounding(context(DType::f32));
}
TEST(SegmentMean, OnTheGpuRoundsAlike) {
  BG_NEEDS_GPU();
  prove_rounding(cuda_context(DType::f32));
}

TEST(Segments, RefuseAWrongNumberOfRuns) {
  Owned x(DType::f32, {1, 8, 2}), m(DType::f32, {1, 3, 2});
  const Ctx ctx = context(DType::f32);
  EXPECT_THROW(segment_mean_forward(ctx, x, Segments::equal(8, 4), m), InvalidArgument);
  EXPECT_THROW(segment_add_forward(ctx, m, Segments::equal(8, 4), x), InvalidArgument);
  EXPECT_THROW(segment_pick_forward(ctx, x, Segments::equal(8, 4), m), InvalidArgument);
  EXPECT_THROW(Segments::equal(8, 0), InvalidArgument);
  EXPECT_THROW(Segments::equal(8, 4, 4), InvalidArgument);
}

TEST(Segments, RefuseListedRunsThatContradictThemselves) {
  const Ctx ctx = context(DType::f32);
  Owned x(DType::f32, {1, 4, 2}), m(DType::f32, {1, 2, 2});
  x.fill(1);
  const auto mean = [&](std::vector<int32_t> start, std::vector<int32_t> of) {
    const Owned starts = Owned::ids({1, 2}, start), runs = Owned::ids({1, 4}, of);
    segment_mean_forward(ctx, x, Segments::listed(starts, runs), m);
  };
  EXPECT_NO_THROW(mean({0, 2}, {0, 0, 1, -1}));
  EXPECT_THROW(mean({2, 0}, {1, 1, 0, 0}), InvalidArgument);   // starts decrease
  EXPECT_THROW(mean({0, 5}, {0, 0, 0, 0}), InvalidArgument);   // after the row
  EXPECT_THROW(mean({-1, 2}, {0, 0, 1, 1}), InvalidArgument);  // before it
  EXPECT_THROW(mean({0, 2}, {0, 0, 1, 2}), InvalidArgument);   // no such run
  EXPECT_THROW(mean({0, 2}, {0, 0, 1, -2}), InvalidArgument);  // nor such
  EXPECT_THROW(mean({0, 2}, {0, 1, 1, 1}), InvalidArgument);   // before its run's start
  EXPECT_THROW(mean({0, 2}, {0, 0, 0, 1}), InvalidArgument);   // after the next run's start
  EXPECT_THROW(mean({0, 3}, {0, -1, 0, 1}), InvalidArgument);  // a hole in a run
  EXPECT_THROW(mean({0, 4}, {-1, 0, 0, 0}), InvalidArgument);  // a run that does not begin at its start
  const Owned starts = Owned::ids({1, 2}, {0, 2}), short_of = Owned::ids({1, 3}, {0, 0, 1});
  EXPECT_THROW(segment_mean_forward(ctx, x, Segments::listed(starts, short_of), m), InvalidArgument);
}

// Rows that take their positions one, or a few, at a time, against the whole pass.
void prove_steps(const Ctx& ctx, DType dtype, int64_t n) {
  const int64_t B = 3, T = 12, K = 4, P = T / K, D = 10, end = 10;  // the last two positions get nothing
  const Owned whole = Owned::normal(dtype, {B, T, D}, "stream", 1, 0, dtype),
              a = Owned::normal(dtype, {B, P, D}, "added", 1, 0, dtype);
  const std::vector<double> x = whole.values(), added = a.values();
  const DType full = ctx.full_dtype();
  Owned sums(full, {B, D}), blank(dtype, {B, D});
  sums.fill(kPoison);
  blank.fill(kPoison);
  const Owned sum = sums.to(ctx), mean = blank.to(ctx), held = blank.to(ctx);
  const Owned limit = Owned::ids({B}, {end, end, end}).to(ctx);
  const double rounding = dtype == DType::bf16 ? tolerance::kCudaBf16 : tolerance::formula(dtype);
  for (int64_t t = 0; t < T; t += n) {
    Owned part(dtype, {B, n, D}), next(dtype, {B, D});
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < D; ++i) {
        for (int64_t j = 0; j < n; ++j) part.set((b * n + j) * D + i, x[(b * T + t + j) * D + i]);
        next.set(b * D + i, t % K == 0 ? added[(b * P + t / K) * D + i] : kPoison);  // read there alone
      }
    // Row 1 rests each time, once before the step is made: nothing may change.
    const Owned moved = part.to(ctx), to = next.to(ctx);
    const auto at = static_cast<int32_t>(t);
    segment_step(ctx, moved, Owned::ids({B}, {-1, -1, -1}).to(ctx), limit, K, to, sum, mean, held);
    EXPECT_TRUE(moved.host(ctx).bits() == part.bits());
    segment_step(ctx, moved, Owned::ids({B}, {at, -1, at}).to(ctx), limit, K, to, sum, mean, held);
    const Owned got = moved.host(ctx), means = mean.host(ctx);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < D; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const double before = x[(b * T + t + j) * D + i],
                       want = b == 1 || t + j >= end ? before : before + added[(b * P + (t + j) / K) * D + i];
          ASSERT_NEAR(got.at((b * n + j) * D + i), want, rounding * 4) << "row " << b << " position " << t + j;
        }
        if ((t + n) % K != 0 || b == 1) continue;
        double total = 0;
        for (int64_t j = t + n - K; j < t + n; ++j) total += x[(b * T + j) * D + i] / static_cast<double>(K);
        ASSERT_NEAR(means.at(b * D + i), total, rounding * 4) << "mean of the run that ends at " << t + n;
      }
  }
}

TEST(SegmentStep, SumsMeansAndAddsLikeTheWholePass) {
  for (DType dtype : {DType::f32, DType::f64})
    for (int64_t n : {1, 2, 4}) prove_steps(context(dtype), dtype, n);
}

TEST(SegmentStep, OnTheGpuDoesTheSame) {
  BG_NEEDS_GPU();
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t n : {1, 2, 4}) prove_steps(cuda_context(dtype), dtype, n);
}

}  // namespace
}  // namespace bg
