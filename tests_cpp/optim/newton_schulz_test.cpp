#include "optim/newton_schulz.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/random.h"
#include "tensor/buffer.h"

namespace bg {
namespace {

using Rows = std::vector<std::vector<double>>;

Rows product(const Rows& a, const Rows& b) {
  Rows c(a.size(), std::vector<double>(b[0].size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}
Rows transposed(const Rows& a) {
  Rows t(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) t[j][i] = a[i][j];
  return t;
}
// The iteration as published: transposed when tall, full products.
Rows by_definition(Rows x, int steps) {
  const bool tall = x.size() > x[0].size();
  if (tall) x = transposed(x);
  double sum = 0;
  for (auto& row : x)
    for (double v : row) sum += v * v;
  for (auto& row : x)
    for (double& v : row) v /= std::sqrt(sum) + 1e-7;
  for (int s = 0; s < steps; ++s) {
    const Rows a = product(x, transposed(x)), aa = product(a, a);
    Rows b = a;
    for (size_t i = 0; i < a.size(); ++i)
      for (size_t j = 0; j < a.size(); ++j) b[i][j] = -4.7750 * a[i][j] + 2.0315 * aa[i][j];
    const Rows bx = product(b, x);
    for (size_t i = 0; i < x.size(); ++i)
      for (size_t j = 0; j < x[0].size(); ++j) x[i][j] = 3.4445 * x[i][j] + bx[i][j];
  }
  return tall ? transposed(x) : x;
}

template <class T>
std::vector<T> run(int64_t rows, int64_t cols, int64_t steps, int threads, bool in_place, double scale = 1) {
  Ctx ctx;
  ctx.dtype = DTypeOf<T>::value;
  ctx.pool = std::make_shared<ThreadPool>(threads);
  const Random random(3, "g");
  std::vector<T> g(static_cast<size_t>(rows * cols)), out(g.size());
  for (size_t i = 0; i < g.size(); ++i) g[i] = static_cast<T>(scale * random.normal(i));
  const int64_t n = newton_schulz_scratch(rows, cols);
  const Buffer scratch(static_cast<size_t>(n) * sizeof(T));
  const Tensor in(g.data(), {rows, cols}, ctx.dtype, ctx.device), to(out.data(), {rows, cols}, ctx.dtype, ctx.device);
  newton_schulz(ctx, in, steps, Tensor(scratch.data(), {n}, ctx.dtype, ctx.device), in_place ? in : to);
  return in_place ? g : out;
}

TEST(NewtonSchulz, EqualsItsDefinitionForWideTallAndOddShapes) {
  const int64_t shapes[][2] = {{1, 1}, {1, 9}, {9, 1}, {5, 5}, {97, 97}, {33, 200}, {210, 101}, {193, 195}};
  for (const auto& [rows, cols] : shapes) {
    Rows g(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(cols)));
    const Random random(3, "g");
    for (int64_t i = 0; i < rows * cols; ++i) g[i / cols][i % cols] = random.normal(i);
    for (int64_t steps : {0, 4, 5}) {
      const Rows expected = by_definition(g, static_cast<int>(steps));
      const auto got = run<double>(rows, cols, steps, 1, false);
      for (int64_t i = 0; i < rows * cols; ++i)
        ASSERT_NEAR(got[i], expected[i / cols][i % cols], 1e-12) << rows << "x" << cols << ", steps " << steps;
    }
  }
}

TEST(NewtonSchulz, SameBitsInPlaceAndAtAnyThreadCount) {
  const auto expected = run<float>(130, 260, 5, 1, false);
  EXPECT_EQ(run<float>(130, 260, 5, 3, false), expected);
  EXPECT_EQ(run<float>(130, 260, 5, 2, true), expected);
}

TEST(NewtonSchulz, ZeroStaysZero) {
  for (double v : run<double>(8, 6, 5, 1, false, 0)) EXPECT_EQ(v, 0);
}

TEST(NewtonSchulz, ShortScratchIsRefused) {
  Ctx ctx;
  ctx.pool = std::make_shared<ThreadPool>(1);
  Buffer memory(64 * sizeof(float));
  const Tensor g(memory.data(), {4, 4}, DType::f32, Device::cpu);
  EXPECT_THROW(newton_schulz(ctx, g, 5, Tensor(memory.data(), {20}, DType::f32, Device::cpu), g), InvalidArgument);
}

}  // namespace
}  // namespace bg
