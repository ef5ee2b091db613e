#include "kernels/gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"
#include "kernels/gemm_library.h"

namespace bg {
namespace {

Ctx context(DType dtype, int threads) {
  Ctx ctx;
  ctx.dtype = dtype;
  ctx.pool = std::make_shared<ThreadPool>(threads);
  return ctx;
}

// A matrix with `gap` unused elements after each row.
template <class T>
struct Matrix {
  std::vector<T> data;
  Tensor view;
  Matrix(int64_t rows, int64_t cols, int64_t gap, const char* name) : data(static_cast<size_t>(rows * (cols + gap))) {
    const Random random(1, name, 0);
    for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<T>(random.normal(i));
    view = Tensor(data.data(), {rows, cols + gap}, DTypeOf<T>::value, Device::cpu).slice(1, 0, cols);
  }
  T& at(int64_t i, int64_t j) { return data[static_cast<size_t>(i * view.stride(0) + j)]; }
};

template <class T>
class Gemm : public testing::Test {};
using Floats = testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, Floats);

TYPED_TEST(Gemm, EqualsTheDefinitionForOddShapesStridesTransposesAndScalings) {
  using T = TypeParam;
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 7, 3},     {2, 33, 5},    {5, 3, 17},      {13, 31, 64}, {97, 130, 33},
                               {12, 32, 48}, {25, 300, 20}, {200, 70, 40}, {100, 40, 1100}, {3, 260, 513}};
  const double scalings[][2] = {{1, 0}, {1, 1}, {-0.5, 0}, {2, 0.25}};
  const Ctx ctx = context(DTypeOf<T>::value, 2);
  const double eps = std::numeric_limits<T>::epsilon();
  for (const auto& [M, N, K] : shapes) {
    for (int mode = 0; mode < 4; ++mode) {
      const bool ta = mode & 1, tb = mode & 2;
      for (const auto& [alpha, beta] : scalings) {
        for (int64_t gap : {0, 3}) {
          Matrix<T> a(ta ? K : M, ta ? M : K, gap, "a"), b(tb ? N : K, tb ? K : N, gap, "b"), c(M, N, gap, "c");
          const std::vector<T> before = c.data;
          gemm(ctx, alpha, a.view, ta ? Op::transpose : Op::none, b.view, tb ? Op::transpose : Op::none, beta, c.view);
          for (int64_t i = 0; i < M; ++i) {
            for (int64_t j = 0; j < N + gap; ++j) {
              const double old = static_cast<double>(before[static_cast<size_t>(i * (N + gap) + j)]);
              if (j >= N) {  // the gap between rows is not ours to write
                ASSERT_EQ(static_cast<double>(c.at(i, j)), old);
                continue;
              }
              double sum = 0, size = std::abs(beta * old);
              for (int64_t k = 0; k < K; ++k) {
                const double x = ta ? a.at(k, i) : a.at(i, k), y = tb ? b.at(j, k) : b.at(k, j);
                sum += x * y;
                size += std::abs(alpha * x * y);
              }
              ASSERT_NEAR(static_cast<double>(c.at(i, j)), alpha * sum + beta * old,
                          2 * eps * std::sqrt(static_cast<double>(K) + 4) * size)
                  << M << "x" << N << "x" << K << " mode " << mode << " at " << i << "," << j;
            }
          }
        }
      }
    }
  }
}

TYPED_TEST(Gemm, ARowHasTheSameBitsInAnyBatchSplitAndAtAnyThreadCount) {
  using T = TypeParam;
  const int64_t M = 211, N = 150, K = 700;
  for (int mode = 0; mode < 2; ++mode) {
    const Op op_b = mode ? Op::transpose : Op::none;
    Matrix<T> a(M, K, 0, "a"), b(mode ? N : K, mode ? K : N, 0, "b"), whole(M, N, 0, "c");
    gemm(context(DTypeOf<T>::value, 1), 1, a.view, Op::none, b.view, op_b, 0, whole.view);
    for (int threads : {1, 3}) {
      const Ctx ctx = context(DTypeOf<T>::value, threads);
      for (int64_t step : {1, 5, 13, 100, 211}) {
        Matrix<T> part(M, N, 0, "d");
        for (int64_t i = 0; i < M; i += step) {
          const int64_t end = std::min(i + step, M);
          gemm(ctx, 1, a.view.slice(0, i, end), Op::none, b.view, op_b, 0, part.view.slice(0, i, end));
        }
        ASSERT_EQ(std::memcmp(part.data.data(), whole.data.data(), whole.data.size() * sizeof(T)), 0) << step;
      }
    }
  }
}

TYPED_TEST(Gemm, AColumnDoesNotDependOnTheOthers) {
  using T = TypeParam;
  const int64_t M = 40, N = 300, K = 90;
  const Ctx ctx = context(DTypeOf<T>::value, 2);
  Matrix<T> a(M, K, 0, "a"), b(K, N, 0, "b"), whole(M, N, 0, "c"), part(M, N, 0, "d");
  gemm(ctx, 1, a.view, Op::none, b.view, Op::none, 0, whole.view);
  for (int64_t j = 0; j < N; j += 37) {
    const int64_t end = std::min<int64_t>(j + 37, N);
    gemm(ctx, 1, a.view, Op::none, b.view.slice(1, j, end), Op::none, 0, part.view.slice(1, j, end));
  }
  EXPECT_EQ(std::memcmp(part.data.data(), whole.data.data(), whole.data.size() * sizeof(T)), 0);
}

TYPED_TEST(Gemm, ZeroBetaDoesNotReadTheOldContents) {
  using T = TypeParam;
  const Ctx ctx = context(DTypeOf<T>::value, 1);
  Matrix<T> a(3, 4, 0, "a"), b(4, 5, 0, "b"), c(3, 5, 0, "c");
  for (T& x : c.data) x = std::numeric_limits<T>::quiet_NaN();
  gemm(ctx, 1, a.view, Op::none, b.view, Op::none, 0, c.view);
  for (T x : c.data) EXPECT_TRUE(std::isfinite(x));
}

TYPED_TEST(Gemm, AnEmptySumScalesTheResult) {
  using T = TypeParam;
  const Ctx ctx = context(DTypeOf<T>::value, 1);
  Matrix<T> c(2, 3, 0, "c");
  const std::vector<T> before = c.data;
  Tensor none(c.data.data(), {2, 0}, DTypeOf<T>::value, Device::cpu),
      also(c.data.data(), {0, 3}, DTypeOf<T>::value, Device::cpu);
  gemm(ctx, 1, none, Op::none, also, Op::none, 0.5, c.view);
  for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(c.data[i], T(0.5) * before[i]);
}

TYPED_TEST(Gemm, SymmetricProductsEqualFullOnesToTheBit) {
  using T = TypeParam;
  const Ctx ctx = context(DTypeOf<T>::value, 2);
  for (const auto& [n, K] : {std::pair<int64_t, int64_t>{1, 3}, {37, 20}, {130, 600}, {300, 64}}) {
    for (int mode = 0; mode < 2; ++mode) {
      const Op first = mode ? Op::transpose : Op::none, second = mode ? Op::none : Op::transpose;
      Matrix<T> x(mode ? K : n, mode ? n : K, 1, "x"), full(n, n, 2, "c"), half(n, n, 2, "c");
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < i; ++j) full.at(i, j) = full.at(j, i), half.at(i, j) = half.at(j, i);
      gemm(ctx, 2, x.view, first, x.view, second, 0.5, full.view);
      gemm_symmetric(ctx, 2, x.view, first, x.view, second, 0.5, half.view);
      EXPECT_EQ(full.data, half.data) << n << " " << K;
    }
  }
}

TYPED_TEST(Gemm, LinearLayersUseTheWeightAsStored) {
  using T = TypeParam;
  const Ctx ctx = context(DTypeOf<T>::value, 1);
  T x[] = {1, 2, 3}, w[] = {1, 0, 1, 0, 1, 0}, y[2], dy[] = {1, -1}, dx[3], dw[] = {1, 1, 1, 1, 1, 1};
  const auto tensor = [](T* p, Shape s) { return Tensor(p, s, DTypeOf<T>::value, Device::cpu); };
  linear_forward(ctx, tensor(x, {1, 3}), tensor(w, {2, 3}), tensor(y, {1, 2}));
  EXPECT_EQ(y[0], T(4));
  EXPECT_EQ(y[1], T(2));
  linear_backward_input(ctx, tensor(dy, {1, 2}), tensor(w, {2, 3}), tensor(dx, {1, 3}));
  EXPECT_EQ(dx[0], T(1));
  EXPECT_EQ(dx[1], T(-1));
  EXPECT_EQ(dx[2], T(1));
  linear_backward_weight(ctx, tensor(x, {1, 3}), tensor(dy, {1, 2}), tensor(dw, {2, 3}));
  EXPECT_EQ(dw[2], T(4));   // 1 + 1 * 3
  EXPECT_EQ(dw[5], T(-2));  // 1 - 1 * 3
}

TEST(GemmLibraries, AllThatAreHereAgreeAtAnyThreadCount) {
  for (const GemmLibraryInfo& info : gemm_libraries()) {
    EXPECT_FALSE(info.detail.empty());
    Matrix<float> probe(2, 2, 0, "probe");
    Ctx ctx = context(DType::f32, 2);
    ctx.gemm_library = info.library;
    if (!info.available) {
      EXPECT_THROW(gemm(ctx, 1, probe.view, Op::none, probe.view, Op::none, 0, probe.view), InvalidArgument);
      continue;
    }
    for (const auto& [M, N, K] : {std::array<int64_t, 3>{1, 5, 9}, {300, 70, 33}, {40, 600, 130}}) {
      for (int mode = 0; mode < 4; ++mode) {
        const bool ta = mode & 1, tb = mode & 2;
        const Op op_a = ta ? Op::transpose : Op::none, op_b = tb ? Op::transpose : Op::none;
        Matrix<float> a(ta ? K : M, ta ? M : K, 2, "a"), b(tb ? N : K, tb ? K : N, 3, "b");
        Matrix<float> c(M, N, 1, "c"), d(M, N, 1, "c"), e(M, N, 1, "c");
        gemm(ctx, 0.5, a.view, op_a, b.view, op_b, 0.25, c.view);
        gemm(context(DType::f32, 1), 0.5, a.view, op_a, b.view, op_b, 0.25, d.view);
        for (size_t i = 0; i < c.data.size(); ++i)
          ASSERT_NEAR(c.data[i], d.data[i], 2e-6f * static_cast<float>(K)) << info.name << " mode " << mode;
        Ctx one = context(DType::f32, 1);
        one.gemm_library = info.library;
        gemm(one, 0.5, a.view, op_a, b.view, op_b, 0.25, e.view);
        EXPECT_EQ(c.data, e.data) << info.name;
      }
    }
  }
  EXPECT_THROW(parse_gemm_library("mkl"), InvalidArgument);
  EXPECT_EQ(parse_gemm_library("openblas"), GemmLibrary::openblas);
}

TEST(GemmErrors, NameWhatDisagrees) {
  const Ctx ctx = context(DType::f32, 1);
  Matrix<float> a(2, 3, 0, "a"), b(4, 5, 0, "b"), c(2, 5, 0, "c");
  try {
    gemm(ctx, 1, a.view, Op::none, b.view, Op::none, 0, c.view);
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("columns of op(A) and rows of op(B): 3 4"), std::string::npos)
        << error.what();
  }
  Matrix<double> d(2, 5, 0, "d");
  EXPECT_THROW(gemm(ctx, 1, a.view, Op::none, a.view, Op::transpose, 0, d.view), InvalidArgument);
}

}  // namespace
}  // namespace bg
