#include "kernels/chunk.h"

#include <gtest/gtest.h>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

OpCase shift(int64_t B, int64_t C, int64_t L) {
  OpCase c;
  c.name = words("chunk_shift", B, C, L);
  c.inputs = {{"z", {B, C, L}, Write::add}, parameter("start", {L})};
  c.outputs = {{{B, C, L}}};
  c.forward = [](OpRun& r) { chunk_shift_forward(r.ctx, r.in[0], r.in[1], r.out[0]); };
  c.backward = [](OpRun& r) { chunk_shift_backward(r.ctx, r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t chunk = 0; chunk < C; ++chunk)
        for (int64_t i = 0; i < L; ++i) out.push_back(chunk == 0 ? in[1][i] : in[0][(b * C + chunk - 1) * L + i]);
    return Lists{out};
  };
  return c;
}

OpCase add(int64_t B, int64_t T, int64_t chunk, int64_t D) {
  const int64_t C = T / chunk;
  OpCase c;
  c.name = words("chunk_add", B, T, chunk, D);
  c.inputs = {{"a", {B, C, D}}};
  c.outputs = {{{B, T, D}}};
  c.forward = [=](OpRun& r) {
    copy_tensor(r.ctx, r.constant({B, T, D}, "stream"), r.out[0]);
    chunk_add_forward(r.ctx, r.in[0], chunk, r.out[0]);
  };
  c.backward = [=](OpRun& r) { chunk_add_backward(r.ctx, r.dout[0], chunk, r.din[0]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> x = Owned::normal(DType::f64, {B, T, D}, "stream").values();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < C * chunk; ++t)
        for (int64_t i = 0; i < D; ++i) x[(b * T + t) * D + i] += in[0][(b * C + t / chunk) * D + i];
    return Lists{x};
  };
  return c;
}

// The mean; nothing learns through it.
OpCase mean(int64_t B, int64_t T, int64_t chunk, int64_t D) {
  OpCase c;
  c.name = words("chunk_mean", B, T, chunk, D);
  c.inputs = {{"x", {B, T, D}, Write::add}};
  c.outputs = {{{B, T / chunk, D}}};
  c.forward = [=](OpRun& r) { chunk_mean(r.ctx, r.in[0], chunk, r.out[0]); };
  c.backward = [](OpRun&) {};
  return c;
}

std::vector<OpCase> small_shifts() {
  return {shift(1, 1, 1), shift(3, 1, 17), shift(1, 5, 3), shift(3, 7, 17)};
}
std::vector<OpCase> large_shifts() {
  return {shift(8, 33, 256)};
}
// T a multiple of the chunk, not one, and shorter than one chunk.
std::vector<OpCase> small_adds() {
  return {add(1, 1, 1, 1), add(3, 8, 4, 3), add(2, 11, 4, 17), add(2, 3, 4, 5), add(1, 7, 7, 3)};
}
std::vector<OpCase> large_adds() {
  return {add(2, 203, 8, 512)};
}

BG_PROVE_OP(ChunkShift, small_shifts(), large_shifts())
BG_PROVE_OP(ChunkAdd, small_adds(), large_adds())
BG_PROVE_CUDA(ChunkShift, (std::vector<OpCase>{shift(3, 400, 256), shift(3, 401, 100), shift(300, 2, 5)}))
BG_PROVE_CUDA(ChunkAdd, (std::vector<OpCase>{add(3, 1027, 8, 512), add(3, 1027, 8, 100), add(2, 333, 5, 5)}))
BG_PROVE_CUDA(ChunkMean, (std::vector<OpCase>{mean(3, 1027, 8, 512), mean(3, 1027, 8, 100), mean(2, 333, 5, 5)}))

TEST(ChunkMean, IsTheMeanOfWholeChunksOnly) {
  for (DType dtype : {DType::f32, DType::f64}) {
    const int64_t B = 2, T = 11, K = 4, D = 3, C = 2;
    const Owned x = Owned::normal(dtype, {B, T, D}, "x");
    Owned m(dtype, {B, C, D});
    m.fill(kPoison);
    chunk_mean(context(dtype), x, K, m);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t i = 0; i < D; ++i) {
          double sum = 0;
          for (int64_t t = c * K; t < (c + 1) * K; ++t) sum += x.at((b * T + t) * D + i);
          EXPECT_NEAR(m.at((b * C + c) * D + i), sum / 4, tolerance::formula(dtype));
        }
  }
}

TEST(Chunk, RefusesAWrongNumberOfChunks) {
  Owned x(DType::f32, {1, 8, 2}), m(DType::f32, {1, 3, 2});
  EXPECT_THROW(chunk_mean(context(DType::f32), x, 4, m), InvalidArgument);
  EXPECT_THROW(chunk_add_forward(context(DType::f32), m, 4, x), InvalidArgument);
}

// Rows that take their positions one, or a few, at a time, against the whole pass.
void prove_steps(const Ctx& ctx, DType dtype, int64_t n) {
  const int64_t B = 3, T = 12, chunk = 4, C = T / chunk, D = 10, end = 10;  // the last two positions get nothing
  const Owned whole = Owned::normal(dtype, {B, T, D}, "stream", 1, 0, dtype),
              a = Owned::normal(dtype, {B, C, D}, "added", 1, 0, dtype);
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
        next.set(b * D + i, t % chunk == 0 ? added[(b * C + t / chunk) * D + i] : kPoison);  // read there alone
      }
    // Row 1 rests each time, once before the step is made: nothing may change.
    const Owned moved = part.to(ctx), to = next.to(ctx);
    const auto at = static_cast<int32_t>(t);
    chunk_step(ctx, moved, Owned::ids({B}, {-1, -1, -1}).to(ctx), limit, chunk, to, sum, mean, held);
    EXPECT_TRUE(moved.host(ctx).bits() == part.bits());
    chunk_step(ctx, moved, Owned::ids({B}, {at, -1, at}).to(ctx), limit, chunk, to, sum, mean, held);
    const Owned got = moved.host(ctx), means = mean.host(ctx);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < D; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const double before = x[(b * T + t + j) * D + i],
                       want = b == 1 || t + j >= end ? before : before + added[(b * C + (t + j) / chunk) * D + i];
          ASSERT_NEAR(got.at((b * n + j) * D + i), want, rounding * 4) << "row " << b << " position " << t + j;
        }
        if ((t + n) % chunk != 0 || b == 1) continue;
        double total = 0;
        for (int64_t j = t + n - chunk; j < t + n; ++j) total += x[(b * T + j) * D + i] / static_cast<double>(chunk);
        ASSERT_NEAR(means.at(b * D + i), total, rounding * 4) << "mean of the chunk that ends at " << t + n;
      }
  }
}

TEST(ChunkStep, SumsMeansAndAddsLikeTheWholePass) {
  for (DType dtype : {DType::f32, DType::f64})
    for (int64_t n : {1, 2, 4}) prove_steps(context(dtype), dtype, n);
}

TEST(ChunkStep, OnTheGpuDoesTheSame) {
  BG_NEEDS_GPU();
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t n : {1, 2, 4}) prove_steps(cuda_context(dtype), dtype, n);
}

}  // namespace
}  // namespace bg
