// Between bytes and patches: memory-bound copies and short sums; rows are bytes or patches, threads walk channels.
#include "kernels/patch.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// out[b,j, c*K + i] = e[b, jK-K+1+i, c]; a thread gathers the K bytes of one channel.
template <class T>
__global__ void patch_unfold_kernel(const T* __restrict__ e, T* __restrict__ out, unsigned rows, unsigned J, int64_t L,
                                    int64_t E, int64_t K) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const int64_t b = n / J, first = (n % J) * K - K + 1;
  for (int64_t c = threadIdx.x; c < E; c += blockDim.x)
    for (int64_t i = 0; i < K; ++i)
      out[(n * E + c) * K + i] = first + i < 0 ? from_float<T>(0) : e[(b * L + first + i) * E + c];
}

// de[b,t,c] += the element of dout that e[b,t,c] became, if any.
template <class T>
__global__ void patch_fold_kernel(const T* __restrict__ dout, T* __restrict__ de, unsigned rows, unsigned L, int64_t E,
                                  unsigned K, unsigned J) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const unsigned b = n / L, t = n % L, j = (t + K - 1) / K, i = t + K - 1 - j * K;
  if (j >= J) return;
  const T* g = dout + (int64_t{b} * J + j) * E * K + i;
  for (int64_t c = threadIdx.x; c < E; c += blockDim.x)
    de[n * E + c] = from_float<T>(to_float(de[n * E + c]) + to_float(g[c * K]));
}

}  // namespace

void patch_unfold_forward(const Ctx& ctx, Tensor e, int64_t K, Tensor out) {
  const int64_t L = e.dim(1), E = e.dim(2), J = L / K, rows = e.dim(0) * J;
  if (rows * E == 0) return;
  BG_CUDA_FLOATS(e.dtype(), T, {
    const RowGrid at(rows, E);
    BG_LAUNCH(patch_unfold_kernel<T>, at.grid, at.block, 0, ctx, e.ptr<T>(), out.ptr<T>(), static_cast<unsigned>(rows),
              static_cast<unsigned>(J), L, E, K);
  });
}
void patch_unfold_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor de) {
  const int64_t L = de.dim(1), E = de.dim(2), rows = de.dim(0) * L;
  if (rows * E == 0) return;
  BG_CUDA_FLOATS(de.dtype(), T, {
    const RowGrid at(rows, E);
    BG_LAUNCH(patch_fold_kernel<T>, at.grid, at.block, 0, ctx, dout.ptr<T>(), de.ptr<T>(), static_cast<unsigned>(rows),
              static_cast<unsigned>(L), E, static_cast<unsigned>(K), static_cast<unsigned>(L / K));
  });
}

namespace {

// c[b,t] = sum over back of w[:,0,K-1-back] s[b,t-back], back from t's place in its block down to 0. Turned round
// (step = 1) it is the gradient: ds[b,t] = sum over ahead of w[:,0,K-1-ahead] dc[b,t+ahead] up to the block's end.
template <class T, int V>
__global__ void patch_conv_kernel(const T* __restrict__ s, const float* __restrict__ w, T* __restrict__ c,
                                  unsigned rows, int64_t D, unsigned K, int step) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const unsigned place = n % K;  // rows are whole blocks
  const int reach = static_cast<int>(step < 0 ? place : K - 1 - place);
  for (int64_t i = int64_t{threadIdx.x} * V; i < D; i += int64_t{blockDim.x} * V) {
    Vec<float, V> sum{};
    for (int off = reach; off >= 0; --off) {
      const Vec<float, V> x = load_floats<V>(s + (int64_t{n} + step * off) * D + i);
#pragma unroll
      for (int j = 0; j < V; ++j) sum.v[j] += w[(i + j) * K + K - 1 - off] * x.v[j];
    }
    store_vec(c + n * D + i, sum);
  }
}

void conv(const Ctx& ctx, Tensor s, Tensor w, Tensor c, int step) {
  const int64_t D = s.dim(2), K = w.dim(2), rows = s.dim(0) * s.dim(1);
  if (rows * D == 0) return;
  BG_CUDA_FLOATS(s.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(D, s, c), kIn16Bytes<T>, V, {
                   const RowGrid at(rows, D / V);
                   BG_LAUNCH((patch_conv_kernel<T, V>), at.grid, at.block, 0, ctx, s.ptr<T>(), w.ptr<float>(),
                             c.ptr<T>(), static_cast<unsigned>(rows), D, static_cast<unsigned>(K), step);
                 }));
}

constexpr int kTaps = 8;         // sums that a thread holds
constexpr int64_t kParts = 256;  // of the rows, at most

// partial[part, back, i] = sum over the part's rows n of dc[n,i] s[n-back,i], backs inside n's block.
template <class T>
__global__ void patch_conv_weight_kernel(const T* __restrict__ s, const T* __restrict__ dc, float* __restrict__ partial,
                                         int64_t rows, int64_t rows_per_part, int64_t D, int K) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= D) return;
  const int first_back = static_cast<int>(blockIdx.z) * kTaps;
  const int64_t from = blockIdx.y * rows_per_part, to = min(rows, from + rows_per_part);
  float sum[kTaps] = {};
  for (int64_t block = from; block < to; block += K)
    for (int place = first_back; place < K; ++place) {
      const int64_t n = block + place;
      const float g = to_float(dc[n * D + i]);
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        const int back = first_back + tap;
        if (back <= place) sum[tap] += g * to_float(s[(n - back) * D + i]);
      }
    }
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap)
    if (first_back + tap < K) partial[(int64_t{blockIdx.y} * K + first_back + tap) * D + i] = sum[tap];
}

// dw[i, 0, K-1-back] += the parts' sums, in order.
__global__ void patch_conv_weight_sum_kernel(const float* __restrict__ partial, float* __restrict__ dw, int parts,
                                             int64_t D, int64_t K) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= K * D) return;
  double sum = 0;
  for (int part = 0; part < parts; ++part) sum += static_cast<double>(partial[part * K * D + at]);
  dw[at % D * K + K - 1 - at / D] += static_cast<float>(sum);
}

}  // namespace

void patch_conv_forward(const Ctx& ctx, Tensor s, Tensor w, Tensor c) {
  BG_CHECK(s.dim(1) % w.dim(2) == 0, "patch_conv: whole blocks of", w.dim(2), "in", s.shape().str());
  conv(ctx, s, w, c, -1);
}
void patch_conv_backward(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw) {
  const int64_t D = s.dim(2), K = w.dim(2), rows = s.dim(0) * s.dim(1);
  BG_CHECK(s.dim(1) % K == 0, "patch_conv: whole blocks of", K, "in", s.shape().str());
  if (rows * D == 0) return;
  conv(ctx, dc, w, ds, 1);
  const int64_t room = static_cast<int64_t>(Context::kScratchBytes / sizeof(float)) / (K * D);
  const int64_t wanted = std::max<int64_t>(1, std::min({kParts, rows / K, room}));
  const int64_t rows_per_part = ceil_div(rows / K, wanted) * K, parts = ceil_div(rows, rows_per_part);
  float* partial = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(parts * K * D) * sizeof(float)));
  const dim3 grid(static_cast<unsigned>(ceil_div(D, int64_t{128})), static_cast<unsigned>(parts),
                  static_cast<unsigned>(ceil_div(K, int64_t{kTaps})));
  BG_CUDA_FLOATS(s.dtype(), T, {
    BG_LAUNCH(patch_conv_weight_kernel<T>, grid, 128, 0, ctx, s.ptr<T>(), dc.ptr<T>(), partial, rows, rows_per_part, D,
              static_cast<int>(K));
  });
  BG_LAUNCH(patch_conv_weight_sum_kernel, static_cast<unsigned>(ceil_div(K * D, int64_t{128})), 128, 0, ctx, partial,
            dw.ptr<float>(), static_cast<int>(parts), D, K);
}

}  // namespace bg::cuda
