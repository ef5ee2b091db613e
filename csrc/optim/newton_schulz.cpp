#include "optim/newton_schulz.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gemm.h"

namespace bg {
namespace {

int64_t padded(int64_t n) {
  return (n + 15) / 16 * 16;
}

// The next matrix of the scratch vector.
Tensor take(Tensor scratch, int64_t& used, int64_t rows, int64_t cols) {
  const Tensor part = scratch.slice(0, used, used + rows * cols);
  used += padded(rows * cols);
  return part.reshape({rows, cols});
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
  const double factor = 1 / (norm + kNewtonSchulzEps);
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
    if (tall)
      gemm_symmetric(ctx, 1, x, Op::transpose, x, Op::none, 0, a);
    else
      gemm_symmetric(ctx, 1, x, Op::none, x, Op::transpose, 0, a);
    // S = kC A^2 + kB A + kA I: what X is multiplied with.
    std::memcpy(s.data(), a.data(), a.size_bytes());
    gemm_symmetric(ctx, kNewtonSchulzC, a, Op::none, a, Op::none, kNewtonSchulzB, s);
    for (int64_t i = 0; i < n; ++i) s.ptr<T>()[i * n + i] += static_cast<T>(kNewtonSchulzA);
    if (tall)
      gemm(ctx, 1, x, Op::none, s, Op::none, 0, next);
    else
      gemm(ctx, 1, s, Op::none, x, Op::none, 0, next);
    std::swap(x, next);
  }
}

}  // namespace

namespace cpu {
void newton_schulz(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out) {
  BG_FLOATS(g.dtype(), T, iterate<T>(ctx, g, steps, scratch, out));
}
}  // namespace cpu

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
  BG_CHECK(g.device() == out.device() && g.device() == scratch.device(), "Newton-Schulz needs one device");
  if (g.numel() == 0) return;
  BG_DISPATCH(g.device(), newton_schulz(ctx, g, steps, scratch, out));
}

}  // namespace bg
