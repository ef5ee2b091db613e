// What every CUDA kernel file needs: checked calls, checked launches, dtypes, sums over warps and blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "base/check.h"
#include "base/cuda/context.h"
#include "base/cuda/profile_range.h"
#include "tensor/tensor.h"

namespace bg {
template <>
struct DTypeOf<__nv_bfloat16> {
  static constexpr DType value = DType::bf16;
};
}  // namespace bg

namespace bg::cuda {

using bf16 = __nv_bfloat16;

/// BG_LAUNCH(kernel, grid, block, shared_bytes, ctx, arguments...): launches on the context's stream and checks, in a
/// profiler's range with the kernel's name. Put a kernel with template arguments in parentheses.
#define BG_LAUNCH(kernel, grid, block, shared_bytes, ctx_, ...)                       \
  do {                                                                                \
    static constexpr ::bg::cuda::KernelName bg_name(__FILE__, #kernel);               \
    BG_LAUNCH_AS(bg_name.text, kernel, grid, block, shared_bytes, ctx_, __VA_ARGS__); \
  } while (false)
/// The same with a name, where the kernel's text says too little.
#define BG_LAUNCH_AS(name, kernel, grid, block, shared_bytes, ctx_, ...)                     \
  do {                                                                                       \
    const ::bg::cuda::ProfileRange bg_range(name);                                           \
    (kernel)<<<(grid), (block), (shared_bytes), ::bg::cuda::stream_of(ctx_)>>>(__VA_ARGS__); \
    if (const cudaError_t bg_error = cudaGetLastError(); bg_error != cudaSuccess)            \
      ::bg::cuda::launch_failed(__FILE__, __LINE__, name, bg_error);                         \
  } while (false)

/// Runs body with T = float or bf16, as dtype says.
#define BG_CUDA_FLOATS(dtype_, T, ...)                                                                           \
  do {                                                                                                           \
    if ((dtype_) == ::bg::DType::f32) {                                                                          \
      using T = float;                                                                                           \
      __VA_ARGS__;                                                                                               \
    } else {                                                                                                     \
      BG_CHECK((dtype_) == ::bg::DType::bf16, "CUDA: expected float32 or bfloat16, got", ::bg::name_of(dtype_)); \
      using T = ::bg::cuda::bf16;                                                                                \
      __VA_ARGS__;                                                                                               \
    }                                                                                                            \
  } while (false)

template <class A, class B>
constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Sum over the 32 lanes, the same in each, always in the same order.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}
/// Sum over the block (a multiple of 32 threads, at most 1024), the same in each thread. Synchronises.
template <class T>
__device__ __forceinline__ T block_sum(T x) {
  __shared__ T partial[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  __syncthreads();  // an earlier call may still be read
  if (lane == 0) partial[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? partial[lane] : T(0));
}

}  // namespace bg::cuda
