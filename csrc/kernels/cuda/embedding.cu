// Rows of a table, there and back. The way back sorts positions by id, so that every sum has a fixed order.
#include "kernels/embedding.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// ---- forward

// A thread keeps its columns over some neighbouring positions.
template <class P, class T, int V>
__global__ void __launch_bounds__(kColumnThreads)
    forward_kernel(const int32_t* __restrict__ ids, const P* __restrict__ table, int64_t N, int64_t D, int64_t rows,
                   T* __restrict__ y) {
  constexpr int kBatch = 4;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * V;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y) * rows;
  const int64_t last = min(first + rows, N);
  if (column >= D) return;
  for (int64_t n = first; n < last; n += kBatch) {
    Vec<P, V> row[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (n + u < last) row[u] = load_vec<V>(table + ids[n + u] * D + column);
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      if (n + u >= last) break;
      float out[V];
#pragma unroll
      for (int j = 0; j < V; ++j) out[j] = row[u][j];
      store_vec<V>(y + (n + u) * D + column, out);
    }
  }
}

// ---- backward: dtable[v] += sum of dy[n] over the positions n with ids[n] = v, in four steps:
//   1. tiles of positions count their ids, and number the positions of each id in order;
//   2. counts become places: where each id's positions begin in a list sorted by id, and each tile's share of them;
//   3. positions are written to their places; each id's list is cut into segments of at most `length`;
//   4. a block adds the rows of one segment; where an id has several segments, their sums are then added in order.

constexpr int kTileThreads = 1024;
constexpr int64_t kSmallTile = 1024, kLargestTile = 64512;  // positions; counts within a tile have 16 bits
constexpr int64_t kMostCounts = int64_t{4} << 20;           // tiles x ids
constexpr int64_t kMostIds = 65536;
constexpr size_t kMostPartialBytes = size_t{24} << 20;

// All in scratch memory.
struct Sorted {
  int64_t N = 0, V = 0, tile = 0, tiles = 0, length = 64, most_segments = 0, most_partials = 0;
  int32_t* counts = nullptr;    // (tiles, V): of a tile; later the positions of the same id in earlier tiles
  int32_t* rank = nullptr;      // (N): earlier positions of the same tile and id
  int32_t* order = nullptr;     // (N): positions sorted by id
  int32_t* totals = nullptr;    // (V): positions
  int32_t* start = nullptr;     // (V): where an id's positions begin in `order`
  int32_t* partials = nullptr;  // (V+1): where its segments' sums begin, if there are several
  int32_t* segments = nullptr;  // (1): how many there are
  int32_t *segment_id = nullptr, *segment_index = nullptr;  // (most_segments): which segment of which id
};

__global__ void __launch_bounds__(kTileThreads) rank_kernel(const int32_t* __restrict__ ids, Sorted s) {
  extern __shared__ uint16_t seen[];  // of each id, so far
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t v = threadIdx.x; v < s.V; v += kTileThreads) seen[v] = 0;
  const int64_t first = blockIdx.x * s.tile, last = min(first + s.tile, s.N);
  for (int64_t base = first; base < last; base += kTileThreads) {
    const int64_t n = base + threadIdx.x;
    const bool valid = n < last;
    const int32_t id = valid ? ids[n] : -1;
    const unsigned peers = __match_any_sync(0xffffffffu, id), earlier = peers & ((1u << lane) - 1);
    int before = 0;
    __syncthreads();
    const int warps = static_cast<int>(min(last - base + 31, int64_t{kTileThreads}) / 32);
    for (int w = 0; w < warps; ++w) {  // warps take turns, in the order of positions
      if (w == warp) {
        if (valid) before = seen[id];
        __syncwarp();
        if (valid && earlier == 0) seen[id] = static_cast<uint16_t>(before + __popc(peers));
      }
      __syncthreads();
    }
    if (valid) s.rank[n] = before + __popc(earlier);
  }
  __syncthreads();
  for (int64_t v = threadIdx.x; v < s.V; v += kTileThreads) s.counts[blockIdx.x * s.V + v] = seen[v];
}

// Replaces an id's counts by the sums over earlier tiles; returns the sum over all.
__device__ __forceinline__ int32_t add_tiles(const Sorted& s, int64_t v) {
  constexpr int kAhead = 16;
  int32_t sum = 0;
  for (int64_t t = 0; t < s.tiles; t += kAhead) {
    int32_t count[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) count[k] = t + k < s.tiles ? s.counts[(t + k) * s.V + v] : 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (t + k < s.tiles) s.counts[(t + k) * s.V + v] = sum;
      sum += count[k];
    }
  }
  return sum;
}
__global__ void __launch_bounds__(128) add_tiles_kernel(Sorted s) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * 128 + threadIdx.x;
  if (v < s.V) s.totals[v] = add_tiles(s, v);
}

// The sum over the threads before this one, in a block of 1024. Synchronises.
__device__ __forceinline__ int32_t sum_before(int32_t x) {
  __shared__ int32_t warp_total[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int32_t sum = x;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();
  if (lane == 31) warp_total[warp] = sum;
  __syncthreads();
  const int32_t mine = warp_total[lane];
  return sum - x + warp_sum(lane < warp ? mine : 0);
}

// One block: a thread takes some neighbouring ids.
__global__ void __launch_bounds__(1024) starts_kernel(Sorted s, bool tiles_added) {
  const int64_t each = (s.V + 1023) / 1024, first = threadIdx.x * each, last = min(first + each, s.V);
  int32_t positions = 0, segments = 0, partials = 0;
  for (int64_t v = first; v < last; ++v) {
    if (!tiles_added) s.totals[v] = add_tiles(s, v);
    const int32_t count = s.totals[v], cut = static_cast<int32_t>((count + s.length - 1) / s.length);
    positions += count;
    segments += cut;
    partials += cut > 1 ? cut : 0;
  }
  int32_t at_position = sum_before(positions), at_segment = sum_before(segments), at_partial = sum_before(partials);
  for (int64_t v = first; v < last; ++v) {
    const int32_t count = s.totals[v], cut = static_cast<int32_t>((count + s.length - 1) / s.length);
    s.start[v] = at_position;
    s.partials[v] = at_partial;
    for (int32_t k = 0; k < cut; ++k) {
      s.segment_id[at_segment + k] = static_cast<int32_t>(v);
      s.segment_index[at_segment + k] = k;
    }
    at_position += count;
    at_segment += cut;
    at_partial += cut > 1 ? cut : 0;
  }
  if (threadIdx.x == 1023) {  // idle threads carry the totals along
    s.partials[s.V] = at_partial;
    s.segments[0] = at_segment;
  }
}

__global__ void __launch_bounds__(256) scatter_kernel(const int32_t* __restrict__ ids, Sorted s) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (n >= s.N) return;
  const int32_t id = ids[n];
  s.order[s.start[id] + s.counts[n / s.tile * s.V + id] + s.rank[n]] = static_cast<int32_t>(n);
}

template <class T, int V>
__global__ void __launch_bounds__(kColumnThreads)
    segment_kernel(const T* __restrict__ dy, Sorted s, int64_t D, float* __restrict__ dtable,
                   float* __restrict__ partial) {
  constexpr int kListed = 64, kBatch = sizeof(T) == 2 ? 8 : 4;
  __shared__ int32_t list[kListed];
  if (static_cast<int32_t>(blockIdx.x) >= s.segments[0]) return;
  const int32_t id = s.segment_id[blockIdx.x], index = s.segment_index[blockIdx.x], total = s.totals[id];
  const int64_t begin = index * s.length;
  const int32_t* order = s.order + s.start[id] + begin;
  const int64_t rows = min(s.length, total - begin);
  const int64_t base = static_cast<int64_t>(blockIdx.y) * blockDim.x * V, column = base + threadIdx.x * V;
  const int threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x, step = blockDim.y;
  float sums[V] = {};
  for (int64_t from = 0; from < rows; from += kListed) {
    const int listed = static_cast<int>(min(rows - from, int64_t{kListed}));
    __syncthreads();
    for (int k = thread; k < listed; k += threads) list[k] = order[from + k];
    __syncthreads();
    if (column >= D) continue;
    for (int k = threadIdx.y; k < listed; k += kBatch * step) {
      Vec<T, V> in[kBatch];  // beyond the end the last row again, times 0: no branch between loads
#pragma unroll
      for (int u = 0; u < kBatch; ++u) in[u] = load_vec<V>(dy + list[min(k + u * step, listed - 1)] * D + column);
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const float counts = k + u * step < listed ? 1.0f : 0.0f;
#pragma unroll
        for (int j = 0; j < V; ++j) sums[j] += counts * in[u][j];
      }
    }
  }
  const bool whole = total <= s.length;
  float* out = whole ? dtable + id * D : partial + (s.partials[id] + index) * D;
  add_over_y<V>(sums, base, D, [=](int64_t c, float sum) { out[c] = whole ? out[c] + sum : sum; });
}

template <int V>
__global__ void __launch_bounds__(kColumnThreads)
    join_kernel(const float* __restrict__ partial, Sorted s, int64_t D, float* __restrict__ dtable) {
  constexpr int kBatch = 6;
  const int64_t id = blockIdx.x;
  const int32_t first = s.partials[id], last = s.partials[id + 1];
  if (first == last) return;
  const int64_t base = static_cast<int64_t>(blockIdx.y) * blockDim.x * V, column = base + threadIdx.x * V;
  const int step = blockDim.y;
  float sums[V] = {};
  if (column < D) {
    for (int32_t k = first + static_cast<int32_t>(threadIdx.y); k < last; k += kBatch * step) {
      Vec<float, V> in[kBatch];
#pragma unroll
      for (int u = 0; u < kBatch; ++u)
        in[u] = load_vec<V>(partial + static_cast<int64_t>(min(k + u * step, last - 1)) * D + column);
#pragma unroll
      for (int u = 0; u < kBatch; ++u) {
        const float counts = k + u * step < last ? 1.0f : 0.0f;
#pragma unroll
        for (int j = 0; j < V; ++j) sums[j] += counts * in[u][j];
      }
    }
  }
  add_over_y<V>(sums, base, D, [=](int64_t c, float sum) { dtable[id * D + c] += sum; });
}

// Sizes, and memory for all but the partial sums, which follow.
Sorted plan(const Ctx& ctx, int64_t N, int64_t V, int64_t D, float*& partial) {
  BG_CHECK(V <= kMostIds, "embedding backward on CUDA: a table of", V, "rows; at most", kMostIds);
  Sorted s;
  s.N = N;
  s.V = V;
  const int64_t most_tiles = std::max<int64_t>(1, kMostCounts / V), wanted = ceil_div(N, most_tiles);
  s.tile = ceil_div(std::max(wanted, int64_t{1}), kSmallTile) * kSmallTile;
  BG_CHECK(s.tile <= kLargestTile, "embedding backward on CUDA:", N, "ids into a table of", V, "rows are too many");
  s.tiles = ceil_div(N, s.tile);
  // An id with several segments has fewer than 2 count / length of them.
  while (static_cast<size_t>((2 * N / s.length + 1) * D) * sizeof(float) > kMostPartialBytes) s.length *= 2;
  s.most_segments = N / s.length + std::min(N, V);
  s.most_partials = 2 * N / s.length + 1;
  const int64_t sizes[] = {s.tiles * V, N, N, V, V, V + 1, 1, s.most_segments, s.most_segments};
  int32_t** const arrays[] = {&s.counts,   &s.rank,     &s.order,      &s.totals,       &s.start,
                              &s.partials, &s.segments, &s.segment_id, &s.segment_index};
  int64_t offset[10] = {};
  for (int i = 0; i < 9; ++i) offset[i + 1] = offset[i] + ceil_div(sizes[i], int64_t{32}) * 32;
  auto* memory =
      static_cast<int32_t*>(ctx.cuda->scratch(static_cast<size_t>(offset[9] + s.most_partials * D) * sizeof(int32_t)));
  for (int i = 0; i < 9; ++i) *arrays[i] = memory + offset[i];
  partial = reinterpret_cast<float*>(memory + offset[9]);
  return s;
}

// ---- from ids alone

__global__ void __launch_bounds__(256) bigram_kernel(const int32_t* __restrict__ ids, int64_t N, int64_t T,
                                                     bool product, uint32_t buckets, int32_t* __restrict__ out) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (n >= N) return;
  const bool first = n % T == 0;
  const uint32_t now = static_cast<uint32_t>(ids[n]), before = first ? 0 : static_cast<uint32_t>(ids[n - 1]);
  if (product) {
    out[n] = static_cast<int32_t>((256 * before + now) % buckets);
  } else {
    const uint32_t m = buckets - 1;
    out[n] = static_cast<int32_t>(first ? m : ((36313u * now) ^ (27191u * before)) % m);
  }
}

// A block per row: the largest position so far that holds a bos, 1024 positions at a time.
__global__ void __launch_bounds__(1024)
    document_starts_kernel(const int32_t* __restrict__ ids, int64_t T, int32_t bos, int32_t* __restrict__ out) {
  __shared__ int32_t warp_last[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t row = blockIdx.x * T;
  int32_t before = 0;  // found in earlier rounds
  for (int64_t base = 0; base < T; base += 1024) {
    const int64_t t = base + threadIdx.x;
    int32_t last = t < T && ids[row + t] == bos ? static_cast<int32_t>(t) : 0;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int32_t other = __shfl_up_sync(0xffffffffu, last, offset);
      if (lane >= offset) last = max(last, other);
    }
    __syncthreads();
    if (lane == 31) warp_last[warp] = last;
    __syncthreads();
    const int32_t of_warp = warp_last[lane];
    last = max(last, max(before, __reduce_max_sync(0xffffffffu, lane < warp ? of_warp : 0)));
    before = max(before, __reduce_max_sync(0xffffffffu, of_warp));
    if (t < T) out[row + t] = last;
  }
}

}  // namespace

void embedding_forward(const Ctx& ctx, Tensor ids, Tensor table, Tensor y) {
  const int64_t N = ids.numel(), D = table.dim(1);
  if (N == 0) return;
  BG_CUDA_FLOATS(table.dtype(), P, BG_CUDA_FLOATS(y.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, table, y), 8, V, {
                                                    const Strips s = strips_of(ctx, N, D, V, false);
                                                    BG_LAUNCH((forward_kernel<P, T, V>), s.grid, s.block, 0, ctx,
                                                              ids.ptr<int32_t>(), table.ptr<P>(), N, D, s.rows,
                                                              y.ptr<T>());
                                                  })));
}

void embedding_backward(const Ctx& ctx, Tensor ids, Tensor dy, Tensor dtable) {
  const int64_t N = ids.numel(), V = dtable.dim(0), D = dtable.dim(1);
  if (N == 0) return;
  float* partial = nullptr;
  const Sorted s = plan(ctx, N, V, D, partial);
  const int seen_bytes = static_cast<int>(V * 2);
  if (seen_bytes > 48 * 1024)
    BG_CUDA(cudaFuncSetAttribute(rank_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, seen_bytes));
  BG_LAUNCH(rank_kernel, static_cast<unsigned>(s.tiles), kTileThreads, seen_bytes, ctx, ids.ptr<int32_t>(), s);
  const bool many = V > 1024;  // one block would take long to add all tiles
  if (many) BG_LAUNCH(add_tiles_kernel, static_cast<unsigned>(ceil_div(V, int64_t{128})), 128, 0, ctx, s);
  BG_LAUNCH(starts_kernel, 1, 1024, 0, ctx, s, many);
  BG_LAUNCH(scatter_kernel, static_cast<unsigned>(ceil_div(N, int64_t{256})), 256, 0, ctx, ids.ptr<int32_t>(), s);
  BG_CUDA_FLOATS(dy.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, dy), 8, W, {
                   const int64_t x = std::min<int64_t>(D / W, kColumnThreads),
                                 y = std::min<int64_t>(16, kColumnThreads / x);
                   const dim3 block(static_cast<unsigned>(x), static_cast<unsigned>(y));
                   const auto across = static_cast<unsigned>(ceil_div(D, x * W));
                   BG_LAUNCH((segment_kernel<T, W>), dim3(static_cast<unsigned>(s.most_segments), across), block, 0,
                             ctx, dy.ptr<T>(), s, D, dtable.ptr<float>(), partial);
                   BG_LAUNCH((join_kernel<W>), dim3(static_cast<unsigned>(V), across), block, 0, ctx, partial, s, D,
                             dtable.ptr<float>());
                 }));
}

void bigram_hash(const Ctx& ctx, Tensor ids, BigramHash kind, int64_t buckets, Tensor out) {
  const int64_t N = ids.numel();
  if (N == 0) return;
  BG_LAUNCH(bigram_kernel, static_cast<unsigned>(ceil_div(N, int64_t{256})), 256, 0, ctx, ids.ptr<int32_t>(), N,
            ids.dim(1), kind == BigramHash::product, static_cast<uint32_t>(buckets), out.ptr<int32_t>());
}

void document_starts(const Ctx& ctx, Tensor ids, int32_t bos, Tensor out) {
  if (ids.numel() == 0) return;
  BG_LAUNCH(document_starts_kernel, static_cast<unsigned>(ids.dim(0)), 1024, 0, ctx, ids.ptr<int32_t>(), ids.dim(1),
            bos, out.ptr<int32_t>());
}

}  // namespace bg::cuda
