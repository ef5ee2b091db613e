// What element-wise updates share: walking by fours, Adam's formula, sums of squares by blocks.
#pragma once

#include <cmath>
#include <type_traits>

#include "base/cuda/vectors.cuh"
#include "kernels/update.h"

namespace bg::cuda {

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
