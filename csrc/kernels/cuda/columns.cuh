// Rows of a matrix (N,D), as the memory-bound kernels see them: threads that walk along a row, threads that keep their
// columns while they walk down a strip of rows, and sums over rows that are always added in the same order.
#pragma once

#include <algorithm>
#include <type_traits>

#include "base/cuda/vectors.cuh"

namespace bg::cuda {

/// Rows whose loads are under way together, where each is one vector.
template <class T>
constexpr int kRowsAhead = sizeof(T) == 2 ? 4 : 2;

// ---- threads along a row

/// Blocks of 256 threads over rows of `groups` groups: x walks along a row, y over rows.
struct RowGrid {
  dim3 grid, block;
  RowGrid(int64_t rows, int64_t groups) {
    BG_CHECK(rows < (int64_t{1} << 31) && groups < (int64_t{1} << 31), "too many rows for one launch:", rows, groups);
    unsigned x = 1;
    while (x < 256 && x < groups) x *= 2;
    block = dim3(x, 256 / x);
    grid = dim3(static_cast<unsigned>(ceil_div(rows, int64_t{block.y})));
  }
};
__device__ __forceinline__ unsigned row_of_thread() {
  return blockIdx.x * blockDim.y + threadIdx.y;
}

// ---- a warp's row

/// A row of up to 256 P elements, kept by one warp: lane l holds the eights l, l + 32, ... Beyond D there are zeros.
template <class T, int P>
struct Row {
  Vec<T, 8> part[P];
  __device__ __forceinline__ static int column(int p) { return (p * 32 + static_cast<int>(threadIdx.x) % 32) * 8; }
  __device__ __forceinline__ void load(const T* row, int D) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      part[p] = {};
      if (column(p) < D) part[p] = load_vec<8>(row + column(p));
    }
  }
};
/// Rows that a warp of a norm holds at once, so that enough loads are under way.
template <int P>
constexpr int kRowsPerWarp = P == 1   ? 4
                             : P == 2 ? 2
                                      : 1;

/// Calls body(std::integral_constant<int, P>) for rows of D elements: 256 P >= D, or P = 0 where a row does not fit a
/// warp's registers by eights.
template <class Body>
void with_parts(int64_t D, bool eights, Body&& body) {
  switch (eights ? ceil_div(D, int64_t{256}) : 0) {
    case 1:
      return body(std::integral_constant<int, 1>());
    case 2:
      return body(std::integral_constant<int, 2>());
    case 3:
      return body(std::integral_constant<int, 3>());
    case 4:
      return body(std::integral_constant<int, 4>());
    case 5:
    case 6:
    case 7:
    case 8:
      return body(std::integral_constant<int, 8>());
    default:
      return body(std::integral_constant<int, 0>());
  }
}

// ---- sums over rows

constexpr int kColumnThreads = 256;  // per block, at most

/// Calls write(column, total) once for each of the blockDim.x * V columns of a block that begin at `base`, except for
/// those from D on: total is the sum over threadIdx.y, in order, of what the threads hold for that column.
/// Synchronises.
template <int V, class Write>
__device__ __forceinline__ void add_over_y(const float (&sums)[V], int64_t base, int64_t D, Write&& write) {
  __shared__ alignas(16) float shared[kColumnThreads * V];
  const int width = blockDim.x * V, threads = blockDim.x * blockDim.y;
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  __syncthreads();  // an earlier call may still be read
  store_vec<V>(shared + thread * V, sums);
  __syncthreads();
  for (int j = thread; j < width && base + j < D; j += threads) {
    float total = 0;
    for (int y = 0; y < static_cast<int>(blockDim.y); ++y) total += shared[y * width + j];
    write(base + j, total);
  }
}
template <int V>
__device__ __forceinline__ void write_column_sums(const float (&sums)[V], int64_t base, int64_t D, float* out) {
  add_over_y<V>(sums, base, D, [=](int64_t column, float total) { out[column] = total; });
}

/// out[w] += sum over s of partial[s,w], in an order that depends on the sizes alone.
template <class Out>
__global__ void __launch_bounds__(1024) add_partials_kernel(const float* partial, int64_t strips, int64_t W, Out* out) {
  __shared__ float shared[32][33];
  const int64_t w = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (w < W) {
#pragma unroll 8
    for (int64_t s = threadIdx.y; s < strips; s += 32) sum += partial[s * W + w];
  }
  shared[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  const float total = warp_sum(shared[threadIdx.x][threadIdx.y]);  // warp y adds column y
  const int64_t column = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.y;
  if (threadIdx.x == 0 && column < W) out[column] += total;
}
inline void add_partials(const Ctx& ctx, const float* partial, int64_t strips, int64_t W, Tensor out) {
  BG_LAUNCH((add_partials_kernel<float>), static_cast<unsigned>(ceil_div(W, int64_t{32})), dim3(32, 32), 0, ctx,
            partial, strips, W, out.ptr<float>());
}

// ---- threads that keep their columns

/// How threads divide a matrix: block (x, y) threads, x along the columns, each y with `rows` neighbouring rows.
struct Strips {
  dim3 grid, block;
  int64_t rows = 0;
  int64_t count() const { return grid.x; }
};

/// With `sums` about three blocks per multiprocessor, so that there are few partial sums; else as many blocks as there
/// are rows for.
inline Strips strips_of(const Ctx& ctx, int64_t N, int64_t D, int V, bool sums) {
  const int64_t chunks = D / V, x = std::min<int64_t>(chunks, kColumnThreads), y = kColumnThreads / x,
                across = ceil_div(chunks, x);
  Strips s;
  s.rows = 8;
  if (sums) {
    const int64_t lanes = std::max<int64_t>(1, 3 * ctx.cuda->num_sms() / across) * y;
    s.rows = std::max<int64_t>(4, ceil_div(N, lanes));
  }
  s.block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y));
  s.grid = dim3(static_cast<unsigned>(ceil_div(N, s.rows * y)), static_cast<unsigned>(across));
  return s;
}

/// Every thread calls op on its columns of its rows: op.params(column) once, then op.load(i) for a few rows ahead, with
/// i the index of the first element, and op.apply(in, params, i, sums). An Op has kName (for profiles), kSums (sums
/// over rows per column) and kBatch (rows whose loads are under way together).
template <class Op, int V>
__global__ void __launch_bounds__(kColumnThreads, 3)
    columns_kernel(const Op op, int64_t N, int64_t D, int64_t rows, float* partial) {
  constexpr int kSums = Op::kSums, kBatch = Op::kBatch;
  const int64_t base = static_cast<int64_t>(blockIdx.y) * blockDim.x * V, column = base + threadIdx.x * V;
  float sums[kSums > 0 ? kSums : 1][V] = {};
  if (column < D) {
    const auto params = op.params(column);
    int64_t n = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * rows;
    const int64_t last = min(n + rows, N);
    for (; n + kBatch <= last; n += kBatch) {
      typename Op::In in[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u) in[u] = op.load((n + u) * D + column);
#pragma unroll
      for (int u = 0; u < kBatch; ++u) op.apply(in[u], params, (n + u) * D + column, sums);
    }
    for (; n < last; ++n) op.apply(op.load(n * D + column), params, n * D + column, sums);
  }
  if constexpr (kSums > 0) {
#pragma unroll
    for (int s = 0; s < kSums; ++s)
      write_column_sums<V>(sums[s], base, D, partial + (static_cast<int64_t>(blockIdx.x) * kSums + s) * D);
  }
}

/// Runs op over a matrix (N,D); its sums are added to `out`, kSums x D floats.
template <int V, class Op>
void run_columns(const Ctx& ctx, const Op& op, int64_t N, int64_t D, Tensor out = {}) {
  if (N == 0 || D == 0) return;
  const Strips s = strips_of(ctx, N, D, V, Op::kSums > 0);
  float* partial = nullptr;
  if constexpr (Op::kSums > 0)
    partial = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(s.count() * Op::kSums * D) * sizeof(float)));
  BG_LAUNCH_AS(Op::kName, (columns_kernel<Op, V>), s.grid, s.block, 0, ctx, op, N, D, s.rows, partial);
  if constexpr (Op::kSums > 0) add_partials(ctx, partial, s.count(), Op::kSums * D, out);
}

// ---- flat arrays

/// Runs body(i) for the first element i of every chunk of V among n, several chunks per thread with their loads first:
/// body is op, with op.load(i) and op.apply(in, i). An Op has kName (for profiles) and kBatch.
template <class Op, int V>
__global__ void __launch_bounds__(256) flat_kernel(const Op op, int64_t n) {
  constexpr int kBatch = Op::kBatch;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kBatch * 256 + threadIdx.x) * V;
  typename Op::In in[kBatch];
#pragma unroll
  for (int u = 0; u < kBatch; ++u)
    if (const int64_t i = first + u * 256 * V; i < n) in[u] = op.load(i);
#pragma unroll
  for (int u = 0; u < kBatch; ++u)
    if (const int64_t i = first + u * 256 * V; i < n) op.apply(in[u], i);
}
template <int V, class Op>
void run_flat(const Ctx& ctx, const Op& op, int64_t n) {
  if (n == 0) return;
  BG_LAUNCH_AS(Op::kName, (flat_kernel<Op, V>), static_cast<unsigned>(ceil_div(n, int64_t{Op::kBatch * 256 * V})), 256,
               0, ctx, op, n);
}

}  // namespace bg::cuda
