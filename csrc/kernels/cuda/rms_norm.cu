// One warp per row, which stays in its registers between the sum and what is written; rows too long for that, or not in
// eights, are read twice.
#include "kernels/rms_norm.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

constexpr int kWarps = 8;  // per block

__device__ __forceinline__ int64_t warp_of_grid() {
  return static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
}

// y = scale * r * x,  r = (mean x^2 + eps)^(-1/2).
template <class T, int P>
__global__ void __launch_bounds__(kWarps * 32)
    forward_kernel(const T* x, int64_t N, int D, float scale, float eps, T* y, float* rstd) {
  constexpr int kRows = kRowsPerWarp<P>;
  const int64_t first = warp_of_grid() * kRows;
  Row<T, P> row[kRows];
#pragma unroll
  for (int u = 0; u < kRows; ++u)
    if (first + u < N) row[u].load(x + (first + u) * D, D);
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int64_t n = first + u;
    if (n >= N) break;
    float sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += row[u].part[p][j] * row[u].part[p][j];
    const float r = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps), factor = scale * r;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int c = Row<T, P>::column(p);
      if (c >= D) break;
      float out[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) out[j] = factor * row[u].part[p][j];
      store_vec<8>(y + n * D + c, out);
    }
    if (threadIdx.x % 32 == 0) rstd[n] = r;
  }
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32)
    forward_any_kernel(const T* x, int64_t N, int64_t D, float scale, float eps, T* y, float* rstd) {
  const int64_t n = warp_of_grid();
  const int lane = threadIdx.x % 32;
  if (n >= N) return;
  float sum = 0;
  for (int64_t i = lane; i < D; i += 32) sum += to_float(x[n * D + i]) * to_float(x[n * D + i]);
  const float r = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps), factor = scale * r;
  for (int64_t i = lane; i < D; i += 32) y[n * D + i] = from_float<T>(factor * to_float(x[n * D + i]));
  if (lane == 0) rstd[n] = r;
}

// dx = r * (scale * dy - y * mean(y dy) / scale), set or added.
template <class T, int P>
__global__ void __launch_bounds__(kWarps * 32)
    backward_kernel(const T* y, const float* rstd, int64_t N, int D, float scale, const T* dy, T* dx, bool add) {
  constexpr int kRows = kRowsPerWarp<P>;
  const int64_t first = warp_of_grid() * kRows;
  Row<T, P> row[kRows], g[kRows], old[kRows];
  float r[kRows];
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int64_t n = first + u;
    if (n >= N) break;
    row[u].load(y + n * D, D);
    g[u].load(dy + n * D, D);
    if (add) old[u].load(dx + n * D, D);
    r[u] = rstd[n];
  }
#pragma unroll
  for (int u = 0; u < kRows; ++u) {
    const int64_t n = first + u;
    if (n >= N) break;
    float sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += row[u].part[p][j] * g[u].part[p][j];
    const float a = scale * r[u], b = r[u] * warp_sum(sum) / (scale * static_cast<float>(D));
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int c = Row<T, P>::column(p);
      if (c >= D) break;
      float out[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) out[j] = a * g[u].part[p][j] - b * row[u].part[p][j];
      if (add) {
#pragma unroll
        for (int j = 0; j < 8; ++j) out[j] += old[u].part[p][j];
      }
      store_vec<8>(dx + n * D + c, out);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32) backward_any_kernel(const T* y, const float* rstd, int64_t N, int64_t D,
                                                                   float scale, const T* dy, T* dx, bool add) {
  const int64_t n = warp_of_grid();
  const int lane = threadIdx.x % 32;
  if (n >= N) return;
  float sum = 0;
  for (int64_t i = n * D + lane; i < (n + 1) * D; i += 32) sum += to_float(y[i]) * to_float(dy[i]);
  const float a = scale * rstd[n], b = rstd[n] * warp_sum(sum) / (scale * static_cast<float>(D));
  for (int64_t i = n * D + lane; i < (n + 1) * D; i += 32) {
    const float out = a * to_float(dy[i]) - b * to_float(y[i]);
    dx[i] = from_float<T>(add ? to_float(dx[i]) + out : out);
  }
}

unsigned blocks_for(int64_t N, int rows_per_warp) {
  return static_cast<unsigned>(ceil_div(N, int64_t{kWarps} * rows_per_warp));
}

}  // namespace

void rms_norm_forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd) {
  const int64_t N = x.dim(0), D = x.dim(1);
  if (N == 0) return;
  const auto s = static_cast<float>(scale), e = static_cast<float>(eps);
  BG_CUDA_FLOATS(x.dtype(), T, with_parts(D, whole_vecs<8>(D, x, y), [&](auto parts) {
                   constexpr int P = parts;
                   if constexpr (P > 0) {
                     BG_LAUNCH((forward_kernel<T, P>), blocks_for(N, kRowsPerWarp<P>), kWarps * 32, 0, ctx, x.ptr<T>(),
                               N, static_cast<int>(D), s, e, y.ptr<T>(), rstd.ptr<float>());
                   } else {
                     BG_LAUNCH((forward_any_kernel<T>), blocks_for(N, 1), kWarps * 32, 0, ctx, x.ptr<T>(), N, D, s, e,
                               y.ptr<T>(), rstd.ptr<float>());
                   }
                 }));
}

void rms_norm_backward(const Ctx& ctx, Tensor y, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write) {
  const int64_t N = y.dim(0), D = y.dim(1);
  if (N == 0) return;
  const auto s = static_cast<float>(scale);
  const bool add = write == Write::add;
  BG_CUDA_FLOATS(y.dtype(), T, with_parts(D, whole_vecs<8>(D, y, dy, dx), [&](auto parts) {
                   constexpr int P = parts;
                   if constexpr (P > 0) {
                     BG_LAUNCH((backward_kernel<T, P>), blocks_for(N, kRowsPerWarp<P>), kWarps * 32, 0, ctx, y.ptr<T>(),
                               rstd.ptr<float>(), N, static_cast<int>(D), s, dy.ptr<T>(), dx.ptr<T>(), add);
                   } else {
                     BG_LAUNCH((backward_any_kernel<T>), blocks_for(N, 1), kWarps * 32, 0, ctx, y.ptr<T>(),
                               rstd.ptr<float>(), N, D, s, dy.ptr<T>(), dx.ptr<T>(), add);
                   }
                 }));
}

}  // namespace bg::cuda
