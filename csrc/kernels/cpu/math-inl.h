// Loops and elementary functions that the CPU kernels share, compiled once per instruction set.
#if defined(BG_KERNELS_CPU_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BG_KERNELS_CPU_MATH_INL_H_
#undef BG_KERNELS_CPU_MATH_INL_H_
#else
#define BG_KERNELS_CPU_MATH_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "base/ctx.h"
#include "hwy/highway.h"
#include "kernels/write.h"
#include "tensor/tensor.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

constexpr int64_t kRowsPerTask = 16;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// f(n) for every row, in tasks of a fixed number of rows.
template <class F>
void for_rows(const Ctx& ctx, int64_t N, F&& f) {
  ctx.pool->parallel_for(ceil_div(N, kRowsPerTask), [&](int64_t task) {
    const int64_t end = std::min(N, (task + 1) * kRowsPerTask);
    for (int64_t n = task * kRowsPerTask; n < end; ++n) f(n);
  });
}

/// out[j] += sum over n of f(n, j): blocks of columns are tasks, rows add up in blocks of 128 to keep rounding small.
template <class T, class F>
void add_column_sums(const Ctx& ctx, int64_t N, int64_t D, T* out, F&& f) {
  constexpr int64_t kCols = 64, kRows = 128;
  ctx.pool->parallel_for(ceil_div(D, kCols), [&](int64_t task) {
    const int64_t lo = task * kCols, width = std::min(D - lo, kCols);
    T total[kCols] = {};
    for (int64_t n0 = 0; n0 < N; n0 += kRows) {
      T part[kCols] = {};
      for (int64_t n = n0; n < std::min(N, n0 + kRows); ++n)
        for (int64_t j = 0; j < width; ++j) part[j] += f(n, lo + j);
      for (int64_t j = 0; j < width; ++j) total[j] += part[j];
    }
    for (int64_t j = 0; j < width; ++j) out[lo + j] += total[j];
  });
}

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// e^x. float: within 2 ulp, 0 below -87.3, clamped above 88.3; written without branches, so that loops over it use
/// vectors.
inline double exp_of(double x) {
  return std::exp(x);
}
inline float exp_of(float x) {
  const float clamped = std::min(std::max(x, -87.3f), 88.3f);
  const float n = (clamped * 1.44269504f + 12582912.0f) - 12582912.0f;  // round to nearest by 1.5 * 2^23
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;  // Cephes expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float scale = std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
  return x < -87.3f ? 0.0f : p * scale;
}

inline double tanh_of(double x) {
  return std::tanh(x);
}
inline float tanh_of(float x) {
  const float a = std::min(std::abs(x), 10.0f), s = x * x;
  const float near0 = a * (1 + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
  const float far = 1 - 2 / (exp_of(2 * a) + 1);
  return std::copysign(a < 0.25f ? near0 : far, x);
}

template <class T>
T sigmoid_of(T x) {
  return 1 / (1 + exp_of(-x));
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
