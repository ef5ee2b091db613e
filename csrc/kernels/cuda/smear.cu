// A thread keeps its columns and walks down neighbouring positions, so that each row is read once: what it read for
// this position is what the next one mixes in.
#include "kernels/smear.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/functions.cuh"

namespace bg::cuda {
namespace {

// y[b,t] = (1-g) x[b,t] + g x[b,t-1].  N = B L positions.
template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads, 3)
    forward_kernel(const T* __restrict__ x, const float* __restrict__ gate, int64_t N, int64_t L, int64_t D,
                   int64_t rows, T* __restrict__ y) {
  constexpr int kBatch = kRowsAhead<T>;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * rows;
  const int64_t last = min(first + rows, N);
  if (column >= D || first >= N) return;
  float g[V];
#pragma unroll
  for (int j = 0; j < V; ++j) g[j] = sigmoid<float>(gate[column + j]);
  const T* px = x + column;
  int64_t t = first % L;
  Vec<T, V> before = {};
  if (t > 0) before = load_vec<V>(px + (first - 1) * D);
  for (int64_t n = first; n < last; n += kBatch) {
    Vec<T, V> now[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (n + u < last) now[u] = load_vec<V>(px + (n + u) * D);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      if (n + u >= last) break;
      if (t == 0) before = {};
      float out[V];
#pragma unroll
      for (int j = 0; j < V; ++j) out[j] = (1 - g[j]) * now[u][j] + g[j] * before[j];
      store_vec<V>(y + (n + u) * D + column, out);
      before = now[u];
      t = t + 1 == L ? 0 : t + 1;
    }
  }
}

// dx[b,t] = (1-g) dy[b,t] + g dy[b,t+1];  dgate = g (1-g) sum dy[b,t] (x[b,t-1] - x[b,t]).
template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads, 3)
    backward_kernel(const T* __restrict__ x, const float* __restrict__ gate, const T* __restrict__ dy, int64_t N,
                    int64_t L, int64_t D, int64_t rows, T* __restrict__ dx, float* __restrict__ partial) {
  constexpr int kBatch = kRowsAhead<T> / 2;
  const int64_t base = static_cast<int64_t>(blockIdx.y) * blockDim.x * V, column = base + threadIdx.x * V;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * rows;
  const int64_t last = min(first + rows, N);
  float sums[V] = {};
  if (column < D && first < N) {
    float g[V];
#pragma unroll
    for (int j = 0; j < V; ++j) g[j] = sigmoid<float>(gate[column + j]);
    const T *px = x + column, *pdy = dy + column;
    int64_t t = first % L;
    Vec<T, V> before = {}, grad = load_vec<V>(pdy + first * D);
    if (t > 0) before = load_vec<V>(px + (first - 1) * D);
    for (int64_t n = first; n < last; n += kBatch) {
      Vec<T, V> now[kBatch], next[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (n + u < last) now[u] = load_vec<V>(px + (n + u) * D);
        if (n + u < last && n + u + 1 < N) next[u] = load_vec<V>(pdy + (n + u + 1) * D);
      }
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        if (n + u >= last) break;
        const bool ends = t + 1 == L;
        float out[V];
#pragma unroll
        for (int j = 0; j < V; ++j) {
          out[j] = (1 - g[j]) * grad[j] + (ends ? 0.0f : g[j] * next[u][j]);
          sums[j] += grad[j] * ((t == 0 ? 0.0f : before[j]) - now[u][j]);
        }
        store_vec<V>(dx + (n + u) * D + column, out);
        before = now[u];
        grad = next[u];
        t = ends ? 0 : t + 1;
      }
    }
#pragma unroll
    for (int j = 0; j < V; ++j) sums[j] *= g[j] * (1 - g[j]);
  }
  write_column_sums<V>(sums, base, D, partial + static_cast<int64_t>(blockIdx.x) * D);
}

}  // namespace

void smear_forward(const Ctx& ctx, Tensor x, Tensor gate, Tensor y) {
  const int64_t L = x.dim(1), D = x.dim(2), N = x.dim(0) * L;
  if (N == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, x, y), 8, V, {
                   const Strips s = strips_of(ctx, N, D, V, false);
                   BG_LAUNCH((forward_kernel<T, V>), s.grid, s.block, 0, ctx, x.ptr<T>(), gate.ptr<float>(), N, L, D,
                             s.rows, y.ptr<T>());
                 }));
}

void smear_backward(const Ctx& ctx, Tensor x, Tensor gate, Tensor dy, Tensor dx, Tensor dgate) {
  const int64_t L = x.dim(1), D = x.dim(2), N = x.dim(0) * L;
  if (N == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, x, dy, dx), 8, V, {
                   const Strips s = strips_of(ctx, N, D, V, true);
                   auto* partial =
                       static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(s.count() * D) * sizeof(float)));
                   BG_LAUNCH((backward_kernel<T, V>), s.grid, s.block, 0, ctx, x.ptr<T>(), gate.ptr<float>(),
                             dy.ptr<T>(), N, L, D, s.rows, dx.ptr<T>(), partial);
                   add_partials(ctx, partial, s.count(), D, dgate);
                 }));
}

}  // namespace bg::cuda
