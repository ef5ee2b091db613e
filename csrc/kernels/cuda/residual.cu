// Element-wise work keeps a thread's columns, and with them its coefficients and its sums over rows; where a norm is
// part of it, a warp keeps a row.
#include "kernels/residual.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/rms_norm.h"

namespace bg::cuda {
namespace {

// ---- mix: y = a x + b x0

template <int V>
struct TwoRows {
  Vec<float, V> a, b;
};

template <class T, int V>
struct MixForward {
  static constexpr const char* kName = "residual_mix_forward";
  static constexpr int kSums = 0, kBatch = kRowsAhead<T>;
  struct In {
    Vec<T, V> x, x0;
  };
  const T *x, *x0;
  const float* mix;
  T* y;
  int64_t D;
  __device__ __forceinline__ TwoRows<V> params(int64_t c) const {
    return {load_vec<V>(mix + c), load_vec<V>(mix + D + c)};
  }
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(x + i), load_vec<V>(x0 + i)}; }
  __device__ __forceinline__ void apply(const In& in, const TwoRows<V>& p, int64_t i, float (&)[1][V]) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = p.a[j] * in.x[j] + p.b[j] * in.x0[j];
    store_vec<V>(y + i, out);
  }
};

template <class T, int V>
struct MixBackward {
  static constexpr const char* kName = "residual_mix_backward";
  static constexpr int kSums = 2, kBatch = kRowsAhead<T> / 2;
  struct In {
    Vec<T, V> x, x0, dy, dx0;
  };
  const T *x, *x0, *dy;
  const float* mix;
  T *dx, *dx0;
  int64_t D;
  __device__ __forceinline__ TwoRows<V> params(int64_t c) const {
    return {load_vec<V>(mix + c), load_vec<V>(mix + D + c)};
  }
  __device__ __forceinline__ In load(int64_t i) const {
    return {load_vec<V>(x + i), load_vec<V>(x0 + i), load_vec<V>(dy + i), load_vec<V>(dx0 + i)};
  }
  __device__ __forceinline__ void apply(const In& in, const TwoRows<V>& p, int64_t i, float (&sums)[2][V]) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sums[0][j] += in.dy[j] * in.x[j];
      sums[1][j] += in.dy[j] * in.x0[j];
      out[j] = p.a[j] * in.dy[j];
    }
    store_vec<V>(dx + i, out);
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = in.dx0[j] + p.b[j] * in.dy[j];
    store_vec<V>(dx0 + i, out);
  }
};

// ---- mix and norm: mixed = a x + b x0, u = scale r mixed, r = (mean mixed^2 + eps)^(-1/2)

constexpr int kForwardWarps = 8, kBackwardWarps = 4;  // per block
constexpr int kBackwardBlocks = 3;                    // per multiprocessor, with rows up to 512

template <class T, int P>
__global__ void __launch_bounds__(kForwardWarps * 32)
    mix_norm_forward_kernel(const T* x, const T* x0, const float* mix, int64_t N, int D, float scale, float eps,
                            T* mixed, T* u, float* rstd) {
  constexpr int kRows = kRowsPerWarp<P>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kForwardWarps + threadIdx.x / 32) * kRows;
  Row<T, P> rx[kRows], r0[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    if (first + k >= N) break;
    rx[k].load(x + (first + k) * D, D);
    r0[k].load(x0 + (first + k) * D, D);
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int64_t n = first + k;
    if (n >= N) break;
    float m[P][8], sum = 0;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int c = Row<T, P>::column(p);
      Vec<float, 8> a = {}, b = {};
      if (c < D) {
        a = load_vec<8>(mix + c);
        b = load_vec<8>(mix + D + c);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        m[p][j] = a[j] * rx[k].part[p][j] + b[j] * r0[k].part[p][j];
        sum += m[p][j] * m[p][j];
      }
    }
    const float r = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(D) + eps), factor = scale * r;
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int c = Row<T, P>::column(p);
      if (c >= D) break;
      store_vec<8>(mixed + n * D + c, m[p]);
#pragma unroll
      for (int j = 0; j < 8; ++j) m[p][j] *= factor;
      store_vec<8>(u + n * D + c, m[p]);
    }
    if (threadIdx.x % 32 == 0) rstd[n] = r;
  }
}

// g = dx + r (scale du - u mean(u du) / scale);  dx = a g, dx0 += b g, and the sums of g x and g x0 over a block's
// rows.
template <class T, int P>
__global__ void __launch_bounds__(kBackwardWarps * 32, P <= 2 && sizeof(T) == 2 ? kBackwardBlocks : 2)
    mix_norm_backward_kernel(const T* x, const T* x0, const float* mix, const T* u, const float* rstd, int64_t N, int D,
                             int64_t rows, float scale, const T* du, T* dx, T* dx0, float* partial) {
  Vec<float, 8> a[P], b[P];
  float sum_x[P][8] = {}, sum_x0[P][8] = {};
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int c = Row<T, P>::column(p);
    a[p] = b[p] = {};
    if (c < D) {
      a[p] = load_vec<8>(mix + c);
      b[p] = load_vec<8>(mix + D + c);
    }
  }
  const int64_t first = blockIdx.x * rows, last = min(first + rows, N);
  for (int64_t n = first + threadIdx.y; n < last; n += kBackwardWarps) {
    Row<T, P> ru, rdu, rdx, rx, rx0, rdx0;
    ru.load(u + n * D, D);
    rdu.load(du + n * D, D);
    rdx.load(dx + n * D, D);
    rx.load(x + n * D, D);
    rx0.load(x0 + n * D, D);
    rdx0.load(dx0 + n * D, D);
    const float r = rstd[n];
    float dot = 0;
#pragma unroll
    for (int p = 0; p < P; ++p)
#pragma unroll
      for (int j = 0; j < 8; ++j) dot += ru.part[p][j] * rdu.part[p][j];
    const float along = scale * r, back = r * warp_sum(dot) / (scale * static_cast<float>(D));
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int c = Row<T, P>::column(p);
      float g[8], out[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        g[j] = rdx.part[p][j] + along * rdu.part[p][j] - back * ru.part[p][j];
        sum_x[p][j] += g[j] * rx.part[p][j];
        sum_x0[p][j] += g[j] * rx0.part[p][j];
        out[j] = a[p][j] * g[j];
      }
      if (c < D) store_vec<8>(dx + n * D + c, out);
#pragma unroll
      for (int j = 0; j < 8; ++j) out[j] = rdx0.part[p][j] + b[p][j] * g[j];
      if (c < D) store_vec<8>(dx0 + n * D + c, out);
    }
  }
  float* mine = partial + static_cast<int64_t>(blockIdx.x) * 2 * D;
#pragma unroll
  for (int p = 0; p < P; ++p) {
    write_column_sums<8>(sum_x[p], p * 256, D, mine);
    write_column_sums<8>(sum_x0[p], p * 256, D, mine + D);
  }
}

// ---- rows of a matrix, scaled: out[o,k] = s[o] w[o,k]

constexpr int kRowThreads = 128;  // one block per row

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    scale_rows_forward_kernel(const float* w, const float* scale, int64_t K, T* out) {
  const int64_t row = blockIdx.x * K;
  const float s = scale[blockIdx.x];
  for (int64_t k = threadIdx.x * V; k < K; k += kRowThreads * V) {
    const auto in = load_vec<V>(w + row + k);
    float y[V];
#pragma unroll
    for (int j = 0; j < V; ++j) y[j] = s * in[j];
    store_vec<V>(out + row + k, y);
  }
}

template <class T, int V>
__global__ void __launch_bounds__(kRowThreads)
    scale_rows_backward_kernel(const float* w, const float* scale, const T* dout, int64_t K, float* dw, float* dscale) {
  const int64_t row = blockIdx.x * K;
  const float s = scale[blockIdx.x];
  float sum = 0;
  for (int64_t k = threadIdx.x * V; k < K; k += kRowThreads * V) {
    const auto in = load_vec<V>(w + row + k);
    const auto g = load_vec<V>(dout + row + k);
    const auto old = load_vec<V>(dw + row + k);
    float y[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sum += in[j] * g[j];
      // Not fused into one rounding: what a micro-batch adds must be a number of its own, as it is where ranks add it.
      y[j] = __fadd_rn(old[j], __fmul_rn(s, g[j]));
    }
    store_vec<V>(dw + row + k, y);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dscale[blockIdx.x] += sum;
}

// ---- scaled add: y = x + scale a, per column

template <class T, int V>
struct AddForward {
  static constexpr const char* kName = "scaled_add_forward";
  static constexpr int kSums = 0, kBatch = kRowsAhead<T>;
  struct In {
    Vec<T, V> x, a;
  };
  const T *x, *a;
  const float* scale;
  T* y;
  __device__ __forceinline__ Vec<float, V> params(int64_t c) const { return load_vec<V>(scale + c); }
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(x + i), load_vec<V>(a + i)}; }
  __device__ __forceinline__ void apply(const In& in, const Vec<float, V>& s, int64_t i, float (&)[1][V]) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = in.x[j] + s[j] * in.a[j];
    store_vec<V>(y + i, out);
  }
};

template <class T, int V>
struct AddBackward {
  static constexpr const char* kName = "scaled_add_backward";
  static constexpr int kSums = 1, kBatch = kRowsAhead<T>;
  struct In {
    Vec<T, V> a, dy;
  };
  const T *a, *dy;
  const float* scale;
  T* da;
  __device__ __forceinline__ Vec<float, V> params(int64_t c) const { return load_vec<V>(scale + c); }
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(a + i), load_vec<V>(dy + i)}; }
  __device__ __forceinline__ void apply(const In& in, const Vec<float, V>& s, int64_t i, float (&sums)[1][V]) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sums[0][j] += in.dy[j] * in.a[j];
      out[j] = s[j] * in.dy[j];
    }
    store_vec<V>(da + i, out);
  }
};

// ---- scalar add: y += s a

template <class T, int V>
struct ScalarForward {
  static constexpr const char* kName = "scalar_add_forward";
  static constexpr int kBatch = kRowsAhead<T> / 2;
  struct In {
    Vec<T, V> a, y;
  };
  const T* a;
  const float* s;
  T* y;
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(a + i), load_vec<V>(y + i)}; }
  __device__ __forceinline__ void apply(const In& in, int64_t i) const {
    const float factor = *s;
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = in.y[j] + factor * in.a[j];
    store_vec<V>(y + i, out);
  }
};

// da = s dy, and a block's part of the sum of dy a.
template <class T, int V>
__global__ void __launch_bounds__(256)
    scalar_add_backward_kernel(const T* a, const float* s, const T* dy, int64_t n, T* da, float* partial) {
  constexpr int kBatch = kRowsAhead<T>;
  const float factor = *s;
  const int64_t step = static_cast<int64_t>(gridDim.x) * 256 * V;
  float sum = 0;
  for (int64_t first = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * V; first < n; first += kBatch * step) {
    Vec<T, V> in[kBatch], g[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (const int64_t i = first + u * step; i < n) {
        in[u] = load_vec<V>(a + i);
        g[u] = load_vec<V>(dy + i);
      }
#pragma unroll
    for (int u = 0; u < kBatch; ++u)
      if (const int64_t i = first + u * step; i < n) {
        float out[V], part = 0;
#pragma unroll
        for (int j = 0; j < V; ++j) {
          part += g[u][j] * in[u][j];
          out[j] = factor * g[u][j];
        }
        sum += part;
        store_vec<V>(da + i, out);
      }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// ---- y += a

template <class A, class T, int V>
struct Accumulate {
  static constexpr const char* kName = "accumulate";
  static constexpr int kBatch = 2;
  struct In {
    Vec<A, V> a;
    Vec<T, V> y;
  };
  const A* a;
  T* y;
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(a + i), load_vec<V>(y + i)}; }
  __device__ __forceinline__ void apply(const In& in, int64_t i) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) out[j] = in.y[j] + in.a[j];
    store_vec<V>(y + i, out);
  }
};

}  // namespace

void residual_mix_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor y) {
  const int64_t N = x.dim(0), D = x.dim(1);
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, x, x0, mix, y), 8, V, {
                   const MixForward<T, V> op{x.ptr<T>(), x0.ptr<T>(), mix.ptr<float>(), y.ptr<T>(), D};
                   run_columns<V>(ctx, op, N, D);
                 }));
}

void residual_mix_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor dy, Tensor dx, Tensor dx0,
                           Tensor dmix) {
  const int64_t N = x.dim(0), D = x.dim(1);
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, x, x0, mix, dy, dx, dx0), 8, V, {
                   const MixBackward<T, V> op{
                       x.ptr<T>(), x0.ptr<T>(), dy.ptr<T>(), mix.ptr<float>(), dx.ptr<T>(), dx0.ptr<T>(), D};
                   run_columns<V>(ctx, op, N, D, dmix);
                 }));
}

void mix_norm_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, double scale, double eps, Tensor mixed, Tensor u,
                      Tensor rstd) {
  const int64_t N = x.dim(0), D = x.dim(1);
  if (N == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, with_parts(D, whole_vecs<8>(D, x, x0, mix, mixed, u), [&](auto parts) {
                   constexpr int P = parts;
                   if constexpr (P == 0 || P > 4) {
                     cuda::residual_mix_forward(ctx, x, x0, mix, mixed);
                     bg::rms_norm_forward(ctx, mixed, scale, eps, u, rstd);
                   } else {
                     const int64_t rows = kForwardWarps * kRowsPerWarp<P>;
                     BG_LAUNCH((mix_norm_forward_kernel<T, P>), static_cast<unsigned>(ceil_div(N, rows)),
                               kForwardWarps * 32, 0, ctx, x.ptr<T>(), x0.ptr<T>(), mix.ptr<float>(), N,
                               static_cast<int>(D), static_cast<float>(scale), static_cast<float>(eps), mixed.ptr<T>(),
                               u.ptr<T>(), rstd.ptr<float>());
                   }
                 }));
}

void mix_norm_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor u, Tensor rstd, double scale, Tensor du,
                       Tensor dx, Tensor dx0, Tensor dmix) {
  const int64_t N = x.dim(0), D = x.dim(1);
  if (N == 0) return;
  BG_CUDA_FLOATS(
      x.dtype(), T, with_parts(D, whole_vecs<8>(D, x, x0, mix, u, du, dx, dx0), [&](auto parts) {
        constexpr int P = parts;
        if constexpr (P == 0 || P * sizeof(T) > 8) {
          bg::rms_norm_backward(ctx, u, rstd, scale, du, dx, Write::add);
          cuda::residual_mix_backward(ctx, x, x0, mix, dx, dx, dx0, dmix);
        } else {
          const int64_t blocks = int64_t{kBackwardBlocks} * ctx.cuda->num_sms(),
                        rows = std::max<int64_t>(kBackwardWarps, ceil_div(N, blocks)), strips = ceil_div(N, rows);
          auto* partial = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(strips * 2 * D) * sizeof(float)));
          BG_LAUNCH((mix_norm_backward_kernel<T, P>), static_cast<unsigned>(strips), dim3(32, kBackwardWarps), 0, ctx,
                    x.ptr<T>(), x0.ptr<T>(), mix.ptr<float>(), u.ptr<T>(), rstd.ptr<float>(), N, static_cast<int>(D),
                    rows, static_cast<float>(scale), du.ptr<T>(), dx.ptr<T>(), dx0.ptr<T>(), partial);
          add_partials(ctx, partial, strips, 2 * D, dmix);
        }
      }));
}

void scale_rows_forward(const Ctx& ctx, Tensor w, Tensor scale, Tensor out) {
  const int64_t K = w.dim(1);
  if (w.numel() == 0) return;
  BG_CUDA_FLOATS(out.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(K, w, out), 8, V, {
                   BG_LAUNCH((scale_rows_forward_kernel<T, V>), static_cast<unsigned>(w.dim(0)), kRowThreads, 0, ctx,
                             w.ptr<float>(), scale.ptr<float>(), K, out.ptr<T>());
                 }));
}

void scale_rows_backward(const Ctx& ctx, Tensor w, Tensor scale, Tensor dout, Tensor dw, Tensor dscale) {
  const int64_t K = w.dim(1);
  if (w.numel() == 0) return;
  BG_CUDA_FLOATS(dout.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(K, w, dout, dw), 8, V, {
                   BG_LAUNCH((scale_rows_backward_kernel<T, V>), static_cast<unsigned>(w.dim(0)), kRowThreads, 0, ctx,
                             w.ptr<float>(), scale.ptr<float>(), dout.ptr<T>(), K, dw.ptr<float>(),
                             dscale.ptr<float>());
                 }));
}

void scaled_add_forward(const Ctx& ctx, Tensor x, Tensor a, Tensor scale, Tensor y) {
  const int64_t N = x.dim(0), D = x.dim(1);
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, x, a, scale, y), 8, V, {
                   const AddForward<T, V> op{x.ptr<T>(), a.ptr<T>(), scale.ptr<float>(), y.ptr<T>()};
                   run_columns<V>(ctx, op, N, D);
                 }));
}

void scaled_add_backward(const Ctx& ctx, Tensor a, Tensor scale, Tensor dy, Tensor da, Tensor dscale) {
  const int64_t N = a.dim(0), D = a.dim(1);
  BG_CUDA_FLOATS(a.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(D, a, scale, dy, da), 8, V, {
                   const AddBackward<T, V> op{a.ptr<T>(), dy.ptr<T>(), scale.ptr<float>(), da.ptr<T>()};
                   run_columns<V>(ctx, op, N, D, dscale);
                 }));
}

void scalar_add_forward(const Ctx& ctx, Tensor a, Tensor s, Tensor y) {
  const int64_t n = a.numel();
  BG_CUDA_FLOATS(a.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(n, a, y), 8, V, {
                   run_flat<V>(ctx, ScalarForward<T, V>{a.ptr<T>(), s.ptr<float>(), y.ptr<T>()}, n);
                 }));
}

void scalar_add_backward(const Ctx& ctx, Tensor a, Tensor s, Tensor dy, Tensor da, Tensor ds) {
  const int64_t n = a.numel();
  if (n == 0) return;
  BG_CUDA_FLOATS(a.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(n, a, dy, da), 8, V, {
                   const int64_t blocks = std::min<int64_t>(ceil_div(n, int64_t{256 * V}), 4 * ctx.cuda->num_sms());
                   auto* partial = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(blocks) * sizeof(float)));
                   BG_LAUNCH((scalar_add_backward_kernel<T, V>), static_cast<unsigned>(blocks), 256, 0, ctx, a.ptr<T>(),
                             s.ptr<float>(), dy.ptr<T>(), n, da.ptr<T>(), partial);
                   add_partials(ctx, partial, blocks, 1, ds);
                 }));
}

void fill_zero(const Ctx& ctx, Tensor y) {
  bg::clear_bytes(ctx, y.device(), y.data(), y.size_bytes());
}

void accumulate(const Ctx& ctx, Tensor a, Tensor y) {
  const int64_t n = a.numel();
  BG_CUDA_FLOATS(a.dtype(), A, BG_CUDA_FLOATS(y.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(n, a, y), 8, V, {
                                                run_flat<V>(ctx, Accumulate<A, T, V>{a.ptr<A>(), y.ptr<T>()}, n);
                                              })));
}

}  // namespace bg::cuda
