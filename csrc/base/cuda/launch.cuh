// What every CUDA kernel file needs: checked calls, checked launches, dtypes, 16-byte access, sums over warps and
// blocks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "base/check.h"
#include "base/cuda/context.h"
#include "tensor/tensor.h"

namespace bg {
template <>
struct DTypeOf<__nv_bfloat16> {
  static constexpr DType value = DType::bf16;
};
}  // namespace bg

namespace bg::cuda {

using bf16 = __nv_bfloat16;

/// BG_LAUNCH(kernel, grid, block, shared_bytes, ctx, arguments...): launches on the context's stream and checks. Put a
/// kernel with template arguments in parentheses.
#define BG_LAUNCH(kernel, grid, block, shared_bytes, ctx_, ...)                              \
  do {                                                                                       \
    (kernel)<<<(grid), (block), (shared_bytes), ::bg::cuda::stream_of(ctx_)>>>(__VA_ARGS__); \
    if (const cudaError_t bg_error = cudaGetLastError(); bg_error != cudaSuccess)            \
      ::bg::cuda::failed(__FILE__, __LINE__, "launch of " #kernel, bg_error);                \
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

/// 16 bytes of T, read and written at once; the address must be a multiple of 16.
template <class T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(p) = pack;
}

/// Sum over the 32 lanes, the same in each, always in the same order.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
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
