// Softmax attention in tiles, for any head size up to 256. A block of 16 x 16 threads keeps N rows of one side
// (queries, or keys for dk and dv) in shared memory and walks the other side N rows at a time; a thread holds the
// scores of every 16th row and column, and the sums of its rows in groups of four columns. All arithmetic is float32.
//   s = q k^T / sqrt(d),  p = exp(s - lse),  y = p v
//   delta = sum(dy y),  ds = p (dy v^T - delta),  dq = ds k / sqrt(d),  dk = ds^T q / sqrt(d),  dv = p^T dy
// Keys and queries lie at multiples of N whatever T is, and tiles that a mask hides change nothing: a position's bits
// do not depend on later ones. Source: Dao 2023, arXiv:2307.08691.
#include "kernels/cuda/attention_general.h"

#include <algorithm>
#include <climits>
#include <cmath>

#include "base/cuda/vectors.cuh"

namespace bg::cuda {
namespace {

constexpr int kThreads = 256;

// A (B, T, heads, d) operand.
template <class T>
struct Heads {
  T* data;
  int64_t b, t, h;   // strides
  bool whole_fours;  // four neighbours can be read at once
  __device__ T* at(int64_t batch, int64_t head) const { return data + batch * b + head * h; }
};
template <class T>
Heads<T> heads_of(Tensor x) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(x.data());
  const bool fours = x.dim(3) % 4 == 0 && address % (4 * sizeof(T)) == 0 && x.stride(0) % 4 == 0 &&
                     x.stride(1) % 4 == 0 && x.stride(2) % 4 == 0;
  return {x.ptr<T>(), x.stride(0), x.stride(1), x.stride(2), fours};
}

struct Sizes {
  int64_t B, T, Tk, H, G, window;  // T queries, Tk keys
  int d;
  bool causal;
  float scale;
  const int32_t *lower, *upper;  // (B, T), first and last key of each query (lower: doc_start where causal), or null
  /// First key that query t reads.
  __device__ int first_key(int64_t b, int t) const {
    int first = lower != nullptr ? max(lower[b * T + t], 0) : 0;
    if (window > 0 && window <= t) first = max(first, t - static_cast<int>(window) + 1);
    return first;
  }
  /// Last key that query t reads; before the first where it reads none.
  __device__ int last_key(int64_t b, int t) const {
    if (causal) return t;
    const int end = static_cast<int>(Tk) - 1;
    return upper != nullptr ? min(upper[b * T + t], end) : end;
  }
};

template <int I>
__device__ __forceinline__ float& part(float4& x) {
  if constexpr (I == 0) return x.x;
  if constexpr (I == 1) return x.y;
  if constexpr (I == 2) return x.z;
  if constexpr (I == 3) return x.w;
}

// N rows of a side, kD columns at most.
template <int N, int kD>
struct Tiles {
  static constexpr int kPer = N / 16;         // rows, and columns, of scores of a thread
  static constexpr int kGroups = kD / 64;     // of four columns of sums
  static constexpr int kScoreStride = N + 4;  // floats; four banks further a row

  int d, stride;  // of rows in shared memory: d rounded up to four, and four more so that rows start in other banks
  __device__ __host__ explicit Tiles(int d_) : d(d_), stride((d_ + 3) / 4 * 4 + 4) {}
  __device__ __host__ int rows_floats() const { return N * stride; }
  static constexpr int kScoreFloats = N * kScoreStride;

  static __device__ int tx() { return static_cast<int>(threadIdx.x) % 16; }
  static __device__ int ty() { return static_cast<int>(threadIdx.x) / 16; }

  /// Rows t0.. of x into shared memory as float32, zeros behind row T and column d.
  template <class T>
  __device__ void load(float* to, const Heads<const T>& x, const T* from, int t0, int64_t rows) const {
    for (int row = ty(); row < N; row += 16)
      for (int c = 4 * tx(); c < stride - 4; c += 64) {
        Vec<float, 4> value = {};
        if (t0 + row < rows) {
          const T* p = from + (t0 + row) * x.t + c;
          if (x.whole_fours) {
            value = load_floats<4>(p);
          } else {
            value.v[0] = to_float(p[0]);
            if (c + 1 < d) value.v[1] = to_float(p[1]);
            if (c + 2 < d) value.v[2] = to_float(p[2]);
            if (c + 3 < d) value.v[3] = to_float(p[3]);
          }
        }
        store_vec(to + row * stride + c, value);
      }
  }

  /// s[i][j] = a[row i] . b[column j].
  __device__ void dots(const float* a, const float* b, float (&s)[kPer][kPer]) const {
#pragma unroll
    for (int i = 0; i < kPer; ++i)
#pragma unroll
      for (int j = 0; j < kPer; ++j) s[i][j] = 0;
    a += ty() * stride;
    b += tx() * stride;
#pragma unroll 2
    for (int c = 0; c < stride - 4; c += 4) {
      float4 x[kPer], y[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        x[i] = *reinterpret_cast<const float4*>(a + 16 * i * stride + c);
        y[i] = *reinterpret_cast<const float4*>(b + 16 * i * stride + c);
      }
#pragma unroll
      for (int i = 0; i < kPer; ++i)
#pragma unroll
        for (int j = 0; j < kPer; ++j)
          s[i][j] = fmaf(x[i].w, y[j].w, fmaf(x[i].z, y[j].z, fmaf(x[i].y, y[j].y, fmaf(x[i].x, y[j].x, s[i][j]))));
    }
  }

  /// Hands scores to the other threads of their rows, which are all in one warp.
  static __device__ void share(float* to, const float (&s)[kPer][kPer]) {
    __syncwarp();  // what lay there may still be read
#pragma unroll
    for (int i = 0; i < kPer; ++i)
#pragma unroll
      for (int j = 0; j < kPer; ++j) to[(ty() + 16 * i) * kScoreStride + tx() + 16 * j] = s[i][j];
    __syncwarp();
  }

  /// sum[row i] += sum over n of p[row i][n] b[n].
  __device__ void add_product(const float* p, const float* b, float4 (&sum)[kPer][kGroups]) const {
    p += ty() * kScoreStride;
    b += 4 * tx();
#pragma unroll 2
    for (int n = 0; n < N; n += 4) {
      float4 w[kPer];
#pragma unroll
      for (int i = 0; i < kPer; ++i) w[i] = *reinterpret_cast<const float4*>(p + 16 * i * kScoreStride + n);
      add_row<0>(w, b + n * stride, sum);
      add_row<1>(w, b + (n + 1) * stride, sum);
      add_row<2>(w, b + (n + 2) * stride, sum);
      add_row<3>(w, b + (n + 3) * stride, sum);
    }
  }
  template <int I>
  __device__ __forceinline__ void add_row(float4 (&w)[kPer], const float* b, float4 (&sum)[kPer][kGroups]) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      if (4 * tx() + 64 * g >= stride - 4) continue;
      const float4 y = *reinterpret_cast<const float4*>(b + 64 * g);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const float x = part<I>(w[i]);
        sum[i][g].x = fmaf(x, y.x, sum[i][g].x);
        sum[i][g].y = fmaf(x, y.y, sum[i][g].y);
        sum[i][g].z = fmaf(x, y.z, sum[i][g].z);
        sum[i][g].w = fmaf(x, y.w, sum[i][g].w);
      }
    }
  }
  static __device__ void clear(float4 (&sum)[kPer][kGroups]) {
#pragma unroll
    for (int i = 0; i < kPer; ++i)
#pragma unroll
      for (int g = 0; g < kGroups; ++g) sum[i][g] = make_float4(0, 0, 0, 0);
  }
  /// factor[i] * sum[row i] to the rows t0.. of x.
  template <class T>
  __device__ void store(const Heads<T>& x, T* to, int t0, int64_t rows, float4 (&sum)[kPer][kGroups],
                        const float (&factor)[kPer]) const {
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const int t = t0 + ty() + 16 * i;
      if (t >= rows) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int c = 4 * tx() + 64 * g;
        T* p = to + t * x.t + c;
        if (c < d) p[0] = from_float<T>(sum[i][g].x * factor[i]);
        if (c + 1 < d) p[1] = from_float<T>(sum[i][g].y * factor[i]);
        if (c + 2 < d) p[2] = from_float<T>(sum[i][g].z * factor[i]);
        if (c + 3 < d) p[3] = from_float<T>(sum[i][g].w * factor[i]);
      }
    }
  }
};

// First and last key that any of the N queries from t0 on reads; last < first when they read none.
struct KeySpan {
  int first, last;
};
template <int N>
__device__ KeySpan keys_of_tile(const Sizes& z, int64_t b, int t0) {
  __shared__ int first, last;
  if (threadIdx.x == 0) first = INT_MAX, last = -1;
  __syncthreads();
  const int t = t0 + static_cast<int>(threadIdx.x);
  if (threadIdx.x < N && t < z.T) {
    const int from = z.first_key(b, t), to = z.last_key(b, t);
    if (from <= to) {
      atomicMin(&first, from);
      atomicMax(&last, to);
    }
  }
  __syncthreads();
  return {first, last};
}

__device__ __forceinline__ float sum_of_16(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
__device__ __forceinline__ float max_of_16(float x) {
#pragma unroll
  for (int offset = 8; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// y and lse of N queries of one head; the longest rows first.
template <class T, int N, int kD>
__global__ __launch_bounds__(kThreads) void attention_forward_kernel(Sizes z, Heads<const T> q, Heads<const T> k,
                                                                     Heads<const T> v, Heads<T> y, float* lse) {
  using Tile = Tiles<N, kD>;
  constexpr int kPer = Tile::kPer;
  extern __shared__ __align__(16) float shared[];
  const Tile tile(z.d);
  float *sq = shared, *skv = sq + tile.rows_floats(), *sp = skv + tile.rows_floats();
  const int64_t b = blockIdx.x / z.H, h = blockIdx.x % z.H, g = h / (z.H / z.G);
  const int t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * N;
  const T *from_k = k.at(b, g), *from_v = v.at(b, g);
  tile.load(sq, q, q.at(b, h), t0, z.T);

  int first[kPer], end[kPer];
  float top[kPer], total[kPer];
  float4 sum[kPer][Tile::kGroups];
  Tile::clear(sum);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int t = t0 + Tile::ty() + 16 * i;
    first[i] = t < z.T ? z.first_key(b, t) : INT_MAX;
    end[i] = t < z.T ? z.last_key(b, t) : -1;
    top[i] = -INFINITY;
    total[i] = 0;
  }
  const KeySpan span = keys_of_tile<N>(z, b, t0);
  for (int s0 = span.first / N * N; s0 <= span.last; s0 += N) {
    __syncthreads();
    tile.load(skv, k, from_k, s0, z.Tk);
    __syncthreads();
    float s[kPer][kPer];
    tile.dots(sq, skv, s);
    float shrink[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const int at = s0 + Tile::tx() + 16 * j;
        s[i][j] = at >= first[i] && at <= end[i] ? s[i][j] * z.scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      const float next = fmaxf(top[i], max_of_16(most));
      const float zero = next == -INFINITY ? 0 : next;  // a row without a key so far
      shrink[i] = expf(top[i] - zero);
      top[i] = next;
      float added = 0;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        s[i][j] = expf(s[i][j] - zero);
        added += s[i][j];
      }
      total[i] = total[i] * shrink[i] + sum_of_16(added);
#pragma unroll
      for (int c = 0; c < Tile::kGroups; ++c) {
        sum[i][c].x *= shrink[i];
        sum[i][c].y *= shrink[i];
        sum[i][c].z *= shrink[i];
        sum[i][c].w *= shrink[i];
      }
    }
    Tile::share(sp, s);
    __syncthreads();  // all have read the keys
    tile.load(skv, v, from_v, s0, z.Tk);
    __syncthreads();
    tile.add_product(sp, skv, sum);
  }

  float factor[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int t = t0 + Tile::ty() + 16 * i;
    factor[i] = first[i] > end[i] ? 0 : 1 / total[i];  // without keys y = 0, lse = -infinity
    if (t < z.T && Tile::tx() == 0) lse[(b * z.H + h) * z.T + t] = top[i] + logf(total[i]);
  }
  tile.store(y, y.at(b, h), t0, z.T, sum, factor);
}

// delta[b,h,t] = sum over d of dy y, a warp a row.
template <class T>
__global__ void attention_delta_kernel(Sizes z, Heads<const T> y, Heads<const T> dy, float* delta) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= z.B * z.H * z.T) return;
  const int64_t t = row % z.T, h = row / z.T % z.H, b = row / z.T / z.H;
  const T *py = y.at(b, h) + t * y.t, *pdy = dy.at(b, h) + t * dy.t;
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x) % 32; c < z.d; c += 32) sum += to_float(py[c]) * to_float(pdy[c]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[row] = sum;
}

// dq of N queries of one head.
template <class T, int N, int kD>
__global__ __launch_bounds__(kThreads) void attention_dq_kernel(Sizes z, Heads<const T> q, Heads<const T> k,
                                                                Heads<const T> v, Heads<const T> dy, const float* lse,
                                                                const float* delta, Heads<T> dq) {
  using Tile = Tiles<N, kD>;
  constexpr int kPer = Tile::kPer;
  extern __shared__ __align__(16) float shared[];
  const Tile tile(z.d);
  float *sq = shared, *sdy = sq + tile.rows_floats(), *sk = sdy + tile.rows_floats(), *sv = sk + tile.rows_floats(),
        *sds = sv + tile.rows_floats();
  const int64_t b = blockIdx.x / z.H, h = blockIdx.x % z.H, g = h / (z.H / z.G);
  const int t0 = static_cast<int>(gridDim.y - 1 - blockIdx.y) * N;
  tile.load(sq, q, q.at(b, h), t0, z.T);
  tile.load(sdy, dy, dy.at(b, h), t0, z.T);

  int first[kPer], end[kPer];
  float row_lse[kPer], row_delta[kPer];
  float4 sum[kPer][Tile::kGroups];
  Tile::clear(sum);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const int t = t0 + Tile::ty() + 16 * i;
    const bool here = t < z.T;
    first[i] = here ? z.first_key(b, t) : INT_MAX;
    end[i] = here ? z.last_key(b, t) : -1;
    row_lse[i] = here ? lse[(b * z.H + h) * z.T + t] : 0;
    row_delta[i] = here ? delta[(b * z.H + h) * z.T + t] : 0;
  }
  const KeySpan span = keys_of_tile<N>(z, b, t0);
  for (int s0 = span.first / N * N; s0 <= span.last; s0 += N) {
    __syncthreads();
    tile.load(sk, k, k.at(b, g), s0, z.Tk);
    tile.load(sv, v, v.at(b, g), s0, z.Tk);
    __syncthreads();
    float s[kPer][kPer], dp[kPer][kPer];
    tile.dots(sq, sk, s);
    tile.dots(sdy, sv, dp);
#pragma unroll
    for (int i = 0; i < kPer; ++i)
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const int at = s0 + Tile::tx() + 16 * j;
        const float p = at >= first[i] && at <= end[i] ? expf(s[i][j] * z.scale - row_lse[i]) : 0;
        s[i][j] = p * (dp[i][j] - row_delta[i]);
      }
    Tile::share(sds, s);
    tile.add_product(sds, sk, sum);
  }
  float factor[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) factor[i] = z.scale;
  tile.store(dq, dq.at(b, h), t0, z.T, sum, factor);
}

// dk and dv of N keys of one group, over the group's query heads and then the queries, in order.
template <class T, int N, int kD>
__global__ __launch_bounds__(kThreads) void attention_dkv_kernel(Sizes z, Heads<const T> q, Heads<const T> k,
                                                                 Heads<const T> v, Heads<const T> dy, const float* lse,
                                                                 const float* delta, Heads<T> dk, Heads<T> dv) {
  using Tile = Tiles<N, kD>;
  constexpr int kPer = Tile::kPer;
  extern __shared__ __align__(16) float shared[];
  const Tile tile(z.d);
  float *sk = shared, *sv = sk + tile.rows_floats(), *sq = sv + tile.rows_floats(), *sdy = sq + tile.rows_floats(),
        *sp = sdy + tile.rows_floats(), *sds = sp + Tile::kScoreFloats;
  const int64_t b = blockIdx.x / z.G, g = blockIdx.x % z.G, per_group = z.H / z.G;
  const int s0 = static_cast<int>(blockIdx.y) * N, s_last = min(s0 + N, static_cast<int>(z.Tk)) - 1;
  tile.load(sk, k, k.at(b, g), s0, z.Tk);
  tile.load(sv, v, v.at(b, g), s0, z.Tk);
  // Queries that may see these keys: ranges may come in any order.
  const int begin = z.causal ? s0 : 0;
  const int end = static_cast<int>(z.window > 0 && z.window < z.T - s_last ? s_last + z.window : z.T);

  float4 sum_k[kPer][Tile::kGroups], sum_v[kPer][Tile::kGroups];
  Tile::clear(sum_k);
  Tile::clear(sum_v);
  for (int64_t h = g * per_group; h < (g + 1) * per_group; ++h) {
    for (int t0 = begin; t0 < end; t0 += N) {
      int first[kPer], last[kPer];
      bool any = false;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const int t = t0 + Tile::tx() + 16 * j;
        first[j] = t < z.T ? z.first_key(b, t) : INT_MAX;
        last[j] = t < z.T ? z.last_key(b, t) : -1;
        any = any || (first[j] <= s_last && last[j] >= s0);
      }
      if (!__syncthreads_or(any)) continue;  // and all have read the tiles before
      tile.load(sq, q, q.at(b, h), t0, z.T);
      tile.load(sdy, dy, dy.at(b, h), t0, z.T);
      __syncthreads();
      float p[kPer][kPer], dp[kPer][kPer];
      tile.dots(sk, sq, p);
      tile.dots(sv, sdy, dp);
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const int t = t0 + Tile::tx() + 16 * j;
        const float column_lse = t < z.T ? lse[(b * z.H + h) * z.T + t] : 0;
        const float column_delta = t < z.T ? delta[(b * z.H + h) * z.T + t] : 0;
#pragma unroll
        for (int i = 0; i < kPer; ++i) {
          const int at = s0 + Tile::ty() + 16 * i;
          p[i][j] = at >= first[j] && at <= last[j] ? expf(p[i][j] * z.scale - column_lse) : 0;
          dp[i][j] = p[i][j] * (dp[i][j] - column_delta);
        }
      }
      Tile::share(sp, p);
      Tile::share(sds, dp);
      tile.add_product(sp, sdy, sum_v);
      tile.add_product(sds, sq, sum_k);
    }
  }
  float one[kPer], factor[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) one[i] = 1, factor[i] = z.scale;
  tile.store(dk, dk.at(b, g), s0, z.Tk, sum_k, factor);
  tile.store(dv, dv.at(b, g), s0, z.Tk, sum_v, one);
}

template <class Kernel>
void allow_shared(Kernel* kernel, size_t size_bytes) {
  BG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(size_bytes)));
}

Sizes sizes_of(Tensor q, Tensor k) {
  Sizes z{};
  z.B = q.dim(0), z.T = q.dim(1), z.Tk = k.dim(1), z.H = q.dim(2), z.G = k.dim(2), z.d = static_cast<int>(q.dim(3));
  BG_CHECK(z.d <= 256, "attention: heads of at most 256 on CUDA, got", z.d);
  BG_CHECK(z.B * z.H < (int64_t{1} << 31) && std::max(z.T, z.Tk) <= int64_t{32} * 65535,
           "attention: too large for one launch:", q.shape().str(), k.shape().str());
  z.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(z.d)));
  return z;
}
Sizes sizes_of(Tensor q, Tensor k, int64_t window, Tensor doc_start) {
  Sizes z = sizes_of(q, k);
  z.causal = true;
  z.window = window;
  if (doc_start) z.lower = doc_start.ptr<int32_t>();
  return z;
}
Sizes sizes_of(Tensor q, Tensor k, const KeyRange& range) {
  Sizes z = sizes_of(q, k);
  if (range.first) z.lower = range.first.ptr<int32_t>(), z.upper = range.last.ptr<int32_t>();
  return z;
}
template <class T>
Heads<const T> read(Tensor x) {
  const Heads<T> h = heads_of<T>(x);
  return {h.data, h.b, h.t, h.h, h.whole_fours};
}

template <class T, int N, int kD>
void forward(const Ctx& ctx, const Sizes& z, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse) {
  using Tile = Tiles<N, kD>;
  if (z.B * z.H * z.T == 0) return;
  const auto kernel = attention_forward_kernel<T, N, kD>;
  const size_t size = static_cast<size_t>(2 * Tile(z.d).rows_floats() + Tile::kScoreFloats) * sizeof(float);
  allow_shared(kernel, size);
  const dim3 grid(static_cast<unsigned>(z.B * z.H), static_cast<unsigned>(ceil_div(z.T, int64_t{N})));
  BG_LAUNCH(kernel, grid, kThreads, size, ctx, z, read<T>(q), read<T>(k), read<T>(v), heads_of<T>(y), lse.ptr<float>());
}

template <class T, int N, int kD>
void backward(const Ctx& ctx, const Sizes& z, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, Tensor dy, Tensor dq,
              Tensor dk, Tensor dv, float* delta) {
  using Tile = Tiles<N, kD>;
  const int64_t rows = z.B * z.H * z.T;
  if (rows > 0)
    BG_LAUNCH(attention_delta_kernel<T>, static_cast<unsigned>(ceil_div(rows, int64_t{kThreads / 32})), kThreads, 0,
              ctx, z, read<T>(y), read<T>(dy), delta);
  const auto tiles_of = [](int64_t n) { return static_cast<unsigned>(ceil_div(n, int64_t{N})); };
  const size_t four = static_cast<size_t>(4 * Tile(z.d).rows_floats()), score = Tile::kScoreFloats;
  const auto dkv = attention_dkv_kernel<T, N, kD>;
  allow_shared(dkv, (four + 2 * score) * sizeof(float));
  if (z.B * z.G * z.Tk > 0)
    BG_LAUNCH(dkv, dim3(static_cast<unsigned>(z.B * z.G), tiles_of(z.Tk)), kThreads, (four + 2 * score) * sizeof(float),
              ctx, z, read<T>(q), read<T>(k), read<T>(v), read<T>(dy), lse.ptr<float>(), delta, heads_of<T>(dk),
              heads_of<T>(dv));
  const auto to_dq = attention_dq_kernel<T, N, kD>;
  allow_shared(to_dq, (four + score) * sizeof(float));
  if (rows > 0)
    BG_LAUNCH(to_dq, dim3(static_cast<unsigned>(z.B * z.H), tiles_of(z.T)), kThreads, (four + score) * sizeof(float),
              ctx, z, read<T>(q), read<T>(k), read<T>(v), read<T>(dy), lse.ptr<float>(), delta, heads_of<T>(dq));
}

template <class T>
void forward_of_size(const Ctx& ctx, const Sizes& z, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse) {
  if (z.d <= 64)
    forward<T, 64, 64>(ctx, z, q, k, v, y, lse);
  else
    forward<T, 32, 256>(ctx, z, q, k, v, y, lse);
}
template <class T>
void backward_of_size(const Ctx& ctx, const Sizes& z, Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, Tensor dy,
                      Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  float* delta = static_cast<float*>(scratch.data());
  if (z.d <= 64)
    backward<T, 64, 64>(ctx, z, q, k, v, y, lse, dy, dq, dk, dv, delta);
  else
    backward<T, 32, 256>(ctx, z, q, k, v, y, lse, dy, dq, dk, dv, delta);
}

}  // namespace

void attention_forward_general(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                               Tensor lse) {
  BG_CUDA_FLOATS(q.dtype(), T, forward_of_size<T>(ctx, sizes_of(q, k, window, doc_start), q, k, v, y, lse));
}
void attention_backward_general(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start,
                                Tensor y, Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  BG_CUDA_FLOATS(q.dtype(), T,
                 backward_of_size<T>(ctx, sizes_of(q, k, window, doc_start), q, k, v, y, lse, dy, dq, dk, dv, scratch));
}

void cross_attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse) {
  BG_CUDA_FLOATS(q.dtype(), T, forward_of_size<T>(ctx, sizes_of(q, k, range), q, k, v, y, lse));
}
void cross_attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse,
                              Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  BG_CUDA_FLOATS(q.dtype(), T,
                 backward_of_size<T>(ctx, sizes_of(q, k, range), q, k, v, y, lse, dy, dq, dk, dv, scratch));
}

}  // namespace bg::cuda
