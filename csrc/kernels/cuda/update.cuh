// What element-wise updates share: four numbers at a time, Adam's formula, sums of squares by blocks.
#pragma once

#include <cmath>
#include <type_traits>

#include "base/cuda/launch.cuh"
#include "kernels/update.h"

namespace bg::cuda {

/// W neighbouring numbers as float32. W = 4 reads and writes them at once: the address must be a multiple of their
/// size.
template <int W>
struct Lane {
  float v[W];
};
template <int W>
__device__ __forceinline__ Lane<W> load(const float* p) {
  Lane<W> out;
  if constexpr (W == 4) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    out.v[0] = x.x, out.v[1] = x.y, out.v[2] = x.z, out.v[3] = x.w;
  } else {
    out.v[0] = *p;
  }
  return out;
}
template <int W>
__device__ __forceinline__ Lane<W> load(const bf16* p) {
  Lane<W> out;
  if constexpr (W == 4) {
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    out.v[0] = __uint_as_float(x.x << 16), out.v[1] = __uint_as_float(x.x & 0xffff0000u);
    out.v[2] = __uint_as_float(x.y << 16), out.v[3] = __uint_as_float(x.y & 0xffff0000u);
  } else {
    out.v[0] = to_float(*p);
  }
  return out;
}
template <int W>
__device__ __forceinline__ void store(float* p, const Lane<W>& x) {
  if constexpr (W == 4)
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  else
    *p = x.v[0];
}
template <int W>
__device__ __forceinline__ void store(bf16* p, const Lane<W>& x) {
  if constexpr (W == 4) {
    alignas(8) __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(x.v[0], x.v[1]), __floats2bfloat162_rn(x.v[2], x.v[3])};
    *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(pairs);
  } else {
    *p = from_float<bf16>(x.v[0]);
  }
}

/// The block's threads go over 0..count-1: body(width, i) does elements i..i+width-1, four where `aligned` allows it.
template <class Body>
__device__ __forceinline__ void for_elements(int count, bool aligned, Body&& body) {
  const int whole = aligned ? count / 4 * 4 : 0;
  for (int i = 4 * static_cast<int>(threadIdx.x); i < whole; i += 4 * static_cast<int>(blockDim.x))
    body(std::integral_constant<int, 4>(), i);
  for (int i = whole + static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    body(std::integral_constant<int, 1>(), i);
}

/// AdamStep as the kernel computes with it, rounded like the CPU's.
struct AdamNumbers {
  float beta1, rest1, beta2, rest2, lr, root, keep, eps;
};
inline AdamNumbers adam_numbers(const AdamStep& s) {
  const auto f = [](double x) { return static_cast<float>(x); };
  return {
      f(s.beta1), f(1 - s.beta1), f(s.beta2), f(1 - s.beta2), f(s.lr / s.correction1), f(1 / std::sqrt(s.correction2)),
      f(s.keep),  f(s.eps)};
}
/// The new p; g is scaled already. See kernels/update.h.
__device__ __forceinline__ float adam_element(const AdamNumbers& n, float p, float g, float& m, float& v) {
  m = n.beta1 * m + n.rest1 * g;
  v = n.beta2 * v + n.rest2 * g * g;
  const float divisor = sqrtf(v) * n.root + n.eps;
  return n.keep * p - n.lr * m / (divisor > 0 ? divisor : 1.0f);  // v = 0 only where m = 0
}

/// Enqueues the sums of squares of x's blocks, in float64: update_blocks(n) numbers. x float32 or bfloat16.
void enqueue_squares(const Ctx& ctx, Tensor x, double* partial);

/// The sum of `count` numbers, the same in each thread of the block and in every block.
__device__ __forceinline__ double sum_in_order(const double* partial, int64_t count) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
  return block_sum(sum);
}

}  // namespace bg::cuda
