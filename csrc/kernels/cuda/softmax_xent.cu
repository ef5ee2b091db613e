// A warp keeps a few rows of scores in registers for their largest and their sum; going back every element stands
// alone.
#include "kernels/softmax_xent.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

constexpr float kLog2E = 1.4426950408889634f;

// kFull: to the last bits, for contexts in float32; else by the exponential unit alone, whose error is about 2 units in
// the last place of exp and |x| 2^-24.
template <bool kFull>
__device__ __forceinline__ float exponential(float x) {
  if constexpr (kFull) {
    return expf(x);
  } else {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2E));
    return y;
  }
}

// x = cap tanh(x / cap).
template <bool kFull, int V>
struct Cap {
  static constexpr const char* kName = "softcap";
  static constexpr int kBatch = 2;
  using In = Vec<float, V>;
  float cap, inverse;
  float* x;
  __device__ __forceinline__ In load(int64_t i) const { return load_vec<V>(x + i); }
  __device__ __forceinline__ void apply(const In& in, int64_t i) const {
    float out[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const float z = in[j] * inverse;
      if constexpr (kFull) {
        out[j] = cap * tanhf(z);
      } else {
        out[j] = cap - cap * __fdividef(2.0f, 1.0f + exponential<false>(2 * (z > 40.0f ? 40.0f : z)));
      }
    }
    store_vec<V>(x + i, out);
  }
};

constexpr int kWarps = 8;  // per block

// lse = largest + ln sum exp(x - largest), nll = lse - x[target], or 0 without a target. Lane u < kRows finishes row u:
// the logarithms, in float64, are taken together. Rows of up to 32 K scores; K = 0 reads longer ones twice.
template <bool kFull, int K, int kRows>
__global__ void __launch_bounds__(kWarps * 32)
    forward_kernel(const float* __restrict__ logits, const int32_t* __restrict__ targets, int64_t N, int64_t V,
                   double* __restrict__ nll, float* __restrict__ lse) {
  const int lane = threadIdx.x % 32;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32) * kRows;
  if (first >= N) return;
  float my_largest = 0, my_sum = 1;
  if constexpr (K > 0) {
    float x[kRows][K];
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      const float* row = logits + min(first + u, N - 1) * V;
#pragma unroll
      for (int k = 0; k < K; ++k) x[u][k] = k * 32 + lane < V ? row[k * 32 + lane] : -INFINITY;
    }
#pragma unroll
    for (int u = 0; u < kRows; ++u) {
      float largest = x[u][0], sum = 0;
#pragma unroll
      for (int k = 1; k < K; ++k) largest = fmaxf(largest, x[u][k]);
      largest = warp_max(largest);
#pragma unroll
      for (int k = 0; k < K; ++k) sum += exponential<kFull>(x[u][k] - largest);
      sum = warp_sum(sum);
      if (lane == u) {
        my_largest = largest;
        my_sum = sum;
      }
    }
  } else {
    static_assert(kRows == 1);
    const float* row = logits + first * V;
    float largest = -INFINITY, sum = 0;
    for (int64_t v = lane; v < V; v += 32) largest = fmaxf(largest, row[v]);
    largest = warp_max(largest);
    for (int64_t v = lane; v < V; v += 32) sum += exponential<kFull>(row[v] - largest);
    my_sum = warp_sum(sum);
    my_largest = largest;
  }
  const int64_t n = first + lane;
  if (lane >= kRows || n >= N) return;
  const double log_sum = static_cast<double>(my_largest) + log(static_cast<double>(my_sum));
  const int32_t target = targets[n];
  lse[n] = static_cast<float>(log_sum);
  nll[n] = target < 0 ? 0.0 : log_sum - static_cast<double>(logits[n * V + target]);
}

// dlogits = scale (exp(x - lse) - onehot) (1 - (x / cap)^2). An element needs no other, so dlogits may be logits.
template <class T, int W>
__global__ void __launch_bounds__(256)
    backward_kernel(const float* logits, const int32_t* __restrict__ targets, const float* __restrict__ lse, int64_t N,
                    int64_t V, float inverse, float scale, T* dlogits) {
  constexpr int kBatch = 4;
  const int64_t chunks = V / W, all = N * chunks;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * 256 * kBatch + threadIdx.x;
  Vec<float, W> x[kBatch];
  float l[kBatch];
  int32_t target[kBatch], column[kBatch];
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    const int64_t i = min(first + u * 256, all - 1);
    int64_t n;
    if (all < (int64_t{1} << 31)) {  // a short division
      n = static_cast<uint32_t>(i) / static_cast<uint32_t>(chunks);
    } else {
      n = i / chunks;
    }
    column[u] = static_cast<int32_t>(i - n * chunks) * W;
    x[u] = load_vec<W>(logits + i * W);
    l[u] = lse[n];
    target[u] = targets[n];
  }
#pragma unroll
  for (int u = 0; u < kBatch; ++u) {
    if (first + u * 256 >= all) break;
    float out[W];
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float z = x[u][j] * inverse;
      const float p =
          exponential<std::is_same_v<T, float>>(x[u][j] - l[u]) - (column[u] + j == target[u] ? 1.0f : 0.0f);
      out[j] = target[u] < 0 ? 0.0f : scale * p * (1 - z * z);
    }
    store_vec<W>(dlogits + (first + u * 256) * W, out);
  }
}

template <bool kFull, int K, int kRows>
void forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  const int64_t N = logits.dim(0), V = logits.dim(1);
  BG_LAUNCH((forward_kernel<kFull, K, kRows>), static_cast<unsigned>(ceil_div(N, int64_t{kWarps} * kRows)), kWarps * 32,
            0, ctx, logits.ptr<float>(), targets.ptr<int32_t>(), N, V, nll.ptr<double>(), lse.ptr<float>());
}
template <bool kFull>
void forward_of(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  const int64_t V = logits.dim(1);
  if (V <= 32 * 9) return forward<kFull, 9, 4>(ctx, logits, targets, nll, lse);
  if (V <= 32 * 32) return forward<kFull, 32, 1>(ctx, logits, targets, nll, lse);
  forward<kFull, 0, 1>(ctx, logits, targets, nll, lse);
}

}  // namespace

void softcap(const Ctx& ctx, double cap, Tensor x) {
  const int64_t n = x.numel();
  if (cap == 0) return;
  const float c = static_cast<float>(cap), inverse = static_cast<float>(1 / cap);
  BG_VEC_WIDTH(whole_vecs<8>(n, x), 8, V, {
    if (ctx.dtype == DType::f32) {
      run_flat<V>(ctx, Cap<true, V>{c, inverse, x.ptr<float>()}, n);
    } else {
      run_flat<V>(ctx, Cap<false, V>{c, inverse, x.ptr<float>()}, n);
    }
  });
}

void softmax_xent_forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  if (logits.numel() == 0) return;
  if (ctx.dtype == DType::f32) {
    forward_of<true>(ctx, logits, targets, nll, lse);
  } else {
    forward_of<false>(ctx, logits, targets, nll, lse);
  }
}

void softmax_xent_backward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor lse, double cap, double scale,
                           Tensor dlogits) {
  const int64_t N = logits.dim(0), V = logits.dim(1);
  if (logits.numel() == 0) return;
  const float inverse = cap > 0 ? static_cast<float>(1 / cap) : 0.0f;
  BG_CUDA_FLOATS(dlogits.dtype(), T, BG_VEC_WIDTH(whole_vecs<4>(V, logits, dlogits), 4, W, {
                   BG_LAUNCH((backward_kernel<T, W>), static_cast<unsigned>(ceil_div(N * (V / W), int64_t{1024})), 256,
                             0, ctx, logits.ptr<float>(), targets.ptr<int32_t>(), lse.ptr<float>(), N, V, inverse,
                             static_cast<float>(scale), dlogits.ptr<T>());
                 }));
}

}  // namespace bg::cuda
