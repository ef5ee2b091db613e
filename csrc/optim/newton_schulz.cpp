#include "optim/newton_schulz.h"

#include <algorithm>
#include <cmath>

#include "kernels/gemm.h"

namespace bg {
namespace {

constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;
constexpr int64_t kBlock = 96;  // rows of a symmetric product computed at a time

int64_t padded(int64_t n) {
  return (n + 15) / 16 * 16;
}

// The next matrix of the scratch vector.
Tensor take(Tensor scratch, int64_t& used, int64_t rows, int64_t cols) {
  const Tensor part = scratch.slice(0, used, used + rows * cols);
  used += padded(rows * cols);
  return part.reshape({rows, cols});
}

// Upper block triangle of S = alpha * product(lo, hi), where product rows lo..hi-1 meet columns lo..n-1.
template <class F>
void upper_blocks(int64_t n, F&& product) {
  for (int64_t lo = 0; lo < n; lo += kBlock) product(lo, std::min(n, lo + kBlock));
}

// Completes the symmetric S (n, n) below its diagonal blocks.
template <class T>
void mirror(Tensor s) {
  const int64_t n = s.dim(0);
  T* const data = s.ptr<T>();
  for (int64_t lo = 0; lo < n; lo += kBlock)
    for (int64_t i = std::min(n, lo + kBlock); i < n; ++i)
      for (int64_t j = lo; j < std::min(n, lo + kBlock); ++j) data[i * n + j] = data[j * n + i];
}

// S <- kC S + kB A + kA I on the upper block triangle (S holds A^2), completed below: what X is multiplied with.
template <class T>
void polynomial(Tensor a, Tensor s) {
  const int64_t n = s.dim(0);
  const T* const ai = a.ptr<T>();
  T* const si = s.ptr<T>();
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i / kBlock * kBlock; j < n; ++j)
      si[i * n + j] = static_cast<T>(kC) * si[i * n + j] + static_cast<T>(kB) * ai[i * n + j];
    si[i * n + i] += static_cast<T>(kA);
  }
  mirror<T>(s);
}

// to = g / (|g|_F + 1e-7)
template <class T>
void normalise(Tensor g, Tensor to) {
  const T* const in = g.ptr<T>();
  T* const out = to.ptr<T>();
  const int64_t n = g.numel();
  double sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) sum[l] += static_cast<double>(in[i + l]) * static_cast<double>(in[i + l]);
  for (; i < n; ++i) sum[0] += static_cast<double>(in[i]) * static_cast<double>(in[i]);
  const double norm = std::sqrt(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
  const double factor = 1 / (norm + 1e-7);
  for (i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<double>(in[i]) * factor);
}

template <class T>
void iterate(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out) {
  const int64_t rows = g.dim(0), cols = g.dim(1), n = std::min(rows, cols);
  const bool tall = rows > cols;
  int64_t used = 0;
  const Tensor other = take(scratch, used, rows, cols);
  const Tensor a = take(scratch, used, n, n), s = take(scratch, used, n, n);
  Tensor x = steps % 2 == 0 ? out : other, next = steps % 2 == 0 ? other : out;  // the last step writes `out`
  normalise<T>(g, x);
  for (int64_t step = 0; step < steps; ++step) {
    upper_blocks(n, [&](int64_t lo, int64_t hi) {
      const Tensor to = a.slice(0, lo, hi).slice(1, lo, n);
      if (tall)
        gemm(ctx, 1, x.slice(1, lo, hi), Op::transpose, x.slice(1, lo, n), Op::none, 0, to);
      else
        gemm(ctx, 1, x.slice(0, lo, hi), Op::none, x.slice(0, lo, n), Op::transpose, 0, to);
    });
    mirror<T>(a);
    upper_blocks(n, [&](int64_t lo, int64_t hi) {
      gemm(ctx, 1, a.slice(0, lo, hi), Op::none, a.slice(1, lo, n), Op::none, 0, s.slice(0, lo, hi).slice(1, lo, n));
    });
    polynomial<T>(a, s);
    if (tall)
      gemm(ctx, 1, x, Op::none, s, Op::none, 0, next);
    else
      gemm(ctx, 1, s, Op::none, x, Op::none, 0, next);
    std::swap(x, next);
  }
}

}  // namespace

int64_t newton_schulz_scratch(int64_t rows, int64_t cols) {
  const int64_t n = std::min(rows, cols);
  return padded(rows * cols) + 2 * padded(n * n);
}

void newton_schulz(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out) {
  BG_CHECK(g.rank() == 2 && g.shape() == out.shape(), "Newton-Schulz of", g.shape().str(), "into", out.shape().str());
  BG_CHECK(g.dtype() == out.dtype() && g.dtype() == scratch.dtype(), "dtypes differ:", name_of(g.dtype()),
           name_of(scratch.dtype()), name_of(out.dtype()));
  BG_CHECK(g.is_contiguous() && out.is_contiguous(), "Newton-Schulz needs contiguous matrices");
  BG_CHECK(scratch.rank() == 1 && scratch.numel() >= newton_schulz_scratch(g.dim(0), g.dim(1)),
           "scratch of Newton-Schulz too short:", scratch.numel());
  BG_CHECK(steps >= 0, "Newton-Schulz steps must be at least 0, got", steps);
  BG_CHECK(g.device() == Device::cpu, "built without CUDA: device", name_of(g.device()));
  if (g.numel() == 0) return;
  BG_FLOATS(g.dtype(), T, iterate<T>(ctx, g, steps, scratch, out));
}

}  // namespace bg
