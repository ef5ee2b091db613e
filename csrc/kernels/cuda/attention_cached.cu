// One query a head over cached keys. The cache of a row is cut into parts of equal length, so that a single row keeps
// many multiprocessors busy; a block reads one part for one head and leaves its sums in scratch, a second kernel joins
// the parts in order. Which keys there are is read from memory: a recorded step serves every position.
//   part:  top = max score,  sum = sum exp(score - top),  out = sum exp(score - top) v
//   y = sum_i exp(top_i - top) out_i / sum_i exp(top_i - top) sum_i
// All arithmetic is float32. Source: Dao et al. 2023, "Flash-Decoding for long-context inference".
#include "kernels/attention_cached.h"

#include <algorithm>
#include <cmath>

#include "base/cuda/vectors.cuh"

namespace bg::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLargestHead = 256;
constexpr int64_t kPartKeys = 256, kMostParts = 64;

struct Sizes {
  int64_t G, S, window;
  int H, d, parts, length;  // keys of a part
  float scale;
  const int32_t *at, *first;
  __device__ int first_key(int b) const {
    const int t = at[b];
    return window > 0 && window <= t ? max(first[b], t - static_cast<int>(window) + 1) : first[b];
  }
  /// Sums of one part: out (d), then top and sum.
  __device__ float* place(float* scratch, int b, int h, int part) const {
    return scratch + ((int64_t{b} * H + h) * parts + part) * (d + 2);
  }
};

__device__ float block_max(float x) {
  __shared__ float partial[kThreads / 32];
  x = warp_max(x);
  __syncthreads();  // an earlier call may still be read
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) x = fmaxf(x, partial[w]);
  return x;
}

// q . k with both as they lie; kWhole: rows of k are whole vectors.
template <class T, bool kWhole>
__device__ float dot(const float* q, const T* __restrict__ k, int d) {
  float sum = 0;
  if constexpr (kWhole) {
    constexpr int V = kIn16Bytes<T>;
    for (int j = 0; j < d; j += V) {
      const auto some = load_vec<V>(k + j);
#pragma unroll
      for (int i = 0; i < V; ++i) sum += q[j + i] * some[i];
    }
  } else {
    for (int j = 0; j < d; ++j) sum += q[j] * to_float(k[j]);
  }
  return sum;
}

// A thread scores one key of a tile, then adds the values of every `step`-th key in its column: `columns` threads lie
// side by side over a row of values, and kThreads / columns of them share a column.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kThreads)
    attention_part_kernel(const T* __restrict__ q, const T* __restrict__ k_cache, const T* __restrict__ v_cache,
                          Sizes sizes, int columns, float* __restrict__ scratch) {
  __shared__ float query[kLargestHead], weight[kThreads], shares[2 * kThreads];
  const int part = static_cast<int>(blockIdx.x), h = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int thread = static_cast<int>(threadIdx.x), d = sizes.d, t = sizes.at[b];
  if (t < 0) return;
  const int lo = max(sizes.first_key(b), part * sizes.length), hi = min(t + 1, (part + 1) * sizes.length);
  if (lo >= hi) return;  // the same for the whole block
  const int64_t cache = (int64_t{b} * sizes.G + h / (sizes.H / static_cast<int>(sizes.G))) * sizes.S;
  const T *k = k_cache + cache * d, *v = v_cache + cache * d;
  for (int j = thread; j < d; j += kThreads) query[j] = sizes.scale * to_float(q[(int64_t{b} * sizes.H + h) * d + j]);
  __syncthreads();

  const int column = thread % columns, share = thread / columns, step = kThreads / columns;
  float top = -INFINITY, sum = 0, out[2] = {0, 0};  // columns `column` and, of large heads, column + kThreads
  for (int tile = lo; tile < hi; tile += kThreads) {
    const int keys = min(kThreads, hi - tile);
    const float score = thread < keys ? dot<T, kWhole>(query, k + (int64_t{tile} + thread) * d, d) : -INFINITY;
    const float higher = fmaxf(top, block_max(score));
    const float keep = expf(top - higher), e = thread < keys ? expf(score - higher) : 0.0f;
    weight[thread] = e;
    sum = sum * keep + block_sum(e);  // synchronises: weights are there
    top = higher;
    out[0] *= keep;
    out[1] *= keep;
    for (int s = share; s < keys; s += step) {
      const T* row = v + (int64_t{tile} + s) * d;
      if (column < d) out[0] += weight[s] * to_float(row[column]);
      if (column + kThreads < d) out[1] += weight[s] * to_float(row[column + kThreads]);
    }
    __syncthreads();  // before the next tile's weights
  }
  shares[thread] = out[0];
  shares[kThreads + thread] = out[1];
  __syncthreads();
  float* to = sizes.place(scratch, b, h, part);
  for (int j = thread; j < d; j += kThreads) {
    float total = 0;
    if (j < kThreads)
      for (int i = 0; i < step; ++i) total += shares[i * columns + j];
    else
      total = shares[j];  // then columns = kThreads: nobody shares
    to[j] = total;
  }
  if (thread == 0) {
    to[d] = top;
    to[d + 1] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    attention_join_kernel(const float* __restrict__ scratch, Sizes sizes, T* __restrict__ y) {
  const int h = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.y), d = sizes.d, t = sizes.at[b];
  T* to = y + (int64_t{b} * sizes.H + h) * d;
  if (t < 0) {
    for (int j = static_cast<int>(threadIdx.x); j < d; j += kThreads) to[j] = from_float<T>(0.0f);
    return;
  }
  const int begin = sizes.first_key(b) / sizes.length, end = t / sizes.length;  // parts with keys, both included
  const auto at = [&](int part, int j) {
    return scratch[((int64_t{b} * sizes.H + h) * sizes.parts + part) * (d + 2) + j];
  };
  float top = -INFINITY, sum = 0;
  for (int i = begin; i <= end; ++i) top = fmaxf(top, at(i, d));
  for (int i = begin; i <= end; ++i) sum += expf(at(i, d) - top) * at(i, d + 1);
  for (int j = static_cast<int>(threadIdx.x); j < d; j += kThreads) {
    float out = 0;
    for (int i = begin; i <= end; ++i) out += expf(at(i, d) - top) * at(i, j);
    to[j] = from_float<T>(out / sum);
  }
}

}  // namespace

void attention_cached(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first, int64_t window,
                      Tensor y) {
  const int64_t B = q.dim(0), H = q.dim(1), d = q.dim(2), S = k_cache.dim(2);
  BG_CHECK(d <= kLargestHead, "attention cache: heads of at most", kLargestHead, "elements on CUDA, got", d);
  BG_CHECK(B <= 65535 && H <= 65535 && S < (int64_t{1} << 30), "attention cache: too large for one launch:", B, H, S);
  const int64_t part_bytes = B * H * (d + 2) * static_cast<int64_t>(sizeof(float));
  const int64_t fitting = static_cast<int64_t>(Context::kScratchBytes) / part_bytes;
  const int64_t wanted = std::clamp<int64_t>(std::min(kMostParts, fitting), 1, ceil_div(S, kPartKeys));
  Sizes sizes{};
  sizes.G = k_cache.dim(1);
  sizes.S = S;
  sizes.window = window;
  sizes.H = static_cast<int>(H);
  sizes.d = static_cast<int>(d);
  sizes.length = static_cast<int>(ceil_div(S, wanted));
  sizes.parts = static_cast<int>(ceil_div(S, int64_t{sizes.length}));
  sizes.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)));
  sizes.at = at.ptr<int32_t>();
  sizes.first = first.ptr<int32_t>();
  auto* scratch = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(part_bytes * sizes.parts)));
  int columns = 1;
  while (columns < kThreads && columns < d) columns *= 2;
  const dim3 parts(static_cast<unsigned>(sizes.parts), static_cast<unsigned>(H), static_cast<unsigned>(B)),
      heads(static_cast<unsigned>(H), static_cast<unsigned>(B));
  BG_CUDA_FLOATS(q.dtype(), T, {
    const bool whole = whole_vecs<kIn16Bytes<T>>(d, k_cache);
    if (whole)
      BG_LAUNCH((attention_part_kernel<T, true>), parts, kThreads, 0, ctx, q.ptr<T>(), k_cache.ptr<T>(),
                v_cache.ptr<T>(), sizes, columns, scratch);
    else
      BG_LAUNCH((attention_part_kernel<T, false>), parts, kThreads, 0, ctx, q.ptr<T>(), k_cache.ptr<T>(),
                v_cache.ptr<T>(), sizes, columns, scratch);
    BG_LAUNCH(attention_join_kernel<T>, heads, kThreads, 0, ctx, scratch, sizes, y.ptr<T>());
  });
}

namespace {

// Strides of a (B,n,G,d) operand.
struct Strides {
  int64_t b, t, g;
  explicit Strides(const Tensor& x) : b(x.stride(0)), t(x.stride(1)), g(x.stride(2)) {}
};

// A thread copies element j of one key and one value; y of the grid walks over positions and heads of a row.
template <class T>
__global__ void cache_append_kernel(const T* __restrict__ k, const T* __restrict__ v, const int32_t* __restrict__ at,
                                    Strides sk, Strides sv, int64_t n, int64_t G, int64_t S, int d,
                                    T* __restrict__ k_cache, T* __restrict__ v_cache) {
  const int64_t b = blockIdx.y, i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int first = at[b];
  if (first < 0 || i >= n * G * d) return;
  const int64_t t = i / (G * d), g = i / d % G, j = i % d, to = ((b * G + g) * S + first + t) * d + j;
  k_cache[to] = k[b * sk.b + t * sk.t + g * sk.g + j];
  v_cache[to] = v[b * sv.b + t * sv.t + g * sv.g + j];
}

}  // namespace

void cache_append(const Ctx& ctx, Tensor k, Tensor v, Tensor at, Tensor k_cache, Tensor v_cache) {
  const int64_t B = k.dim(0), n = k.dim(1), G = k.dim(2), d = k.dim(3), S = k_cache.dim(2);
  BG_CHECK(B <= 65535, "attention cache: too many rows for one launch:", B);
  const dim3 grid(static_cast<unsigned>(ceil_div(n * G * d, int64_t{256})), static_cast<unsigned>(B));
  BG_CUDA_FLOATS(k.dtype(), T,
                 BG_LAUNCH(cache_append_kernel<T>, grid, 256, 0, ctx, k.ptr<T>(), v.ptr<T>(), at.ptr<int32_t>(),
                           Strides(k), Strides(v), n, G, S, static_cast<int>(d), k_cache.ptr<T>(), v_cache.ptr<T>()));
}

}  // namespace bg::cuda
