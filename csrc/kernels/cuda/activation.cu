// Eight neighbours per thread and step; which function it is, is asked once per eight.
#include "kernels/activation.h"

#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/functions.cuh"

namespace bg::cuda {
namespace {

using Kind = Activation::Kind;

__device__ __forceinline__ float cumulative_normal(float x) {
  return 0.5f * (1.0f + erff(x * 0.70710678118654752440f));
}

// y = f(x).  below = slope^2.
template <class T, int V>
__device__ __forceinline__ void values(Kind kind, float below, const Vec<T, V>& x, float (&y)[V]) {
  switch (kind) {
    case Kind::leaky_relu2:
    case Kind::relu2:
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = (x[j] > 0 ? 1.0f : below) * x[j] * x[j];
      break;
    case Kind::gelu:
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = x[j] * cumulative_normal(x[j]);
      break;
    case Kind::silu:
#pragma unroll
      for (int j = 0; j < V; ++j) y[j] = x[j] * sigmoid<T>(x[j]);
      break;
  }
}

template <class T, int V>
struct Forward {
  static constexpr const char* kName = "activation_forward";
  static constexpr int kBatch = kRowsAhead<T>;
  using In = Vec<T, V>;
  Kind kind;
  float below;
  const T* x;
  T* y;
  __device__ __forceinline__ In load(int64_t i) const { return load_vec<V>(x + i); }
  __device__ __forceinline__ void apply(const In& in, int64_t i) const {
    float out[V];
    values<T, V>(kind, below, in, out);
    store_vec<V>(y + i, out);
  }
};

// dx = f'(x) dy, and y = f(x) where y is wanted. What is read lies in registers before anything is written, so that dx
// and y may be what was read.
template <class T, int V>
struct Backward {
  static constexpr const char* kName = "activation_backward";
  static constexpr int kBatch = 2;
  struct In {
    Vec<T, V> x, dy;
  };
  Kind kind;
  float below;
  const T *x, *dy;
  T *dx, *y;
  __device__ __forceinline__ In load(int64_t i) const { return {load_vec<V>(x + i), load_vec<V>(dy + i)}; }
  __device__ __forceinline__ void apply(const In& in, int64_t i) const {
    float out[V];
    switch (kind) {
      case Kind::leaky_relu2:
      case Kind::relu2:
#pragma unroll
        for (int j = 0; j < V; ++j) out[j] = (in.x[j] > 0 ? 2.0f : 2 * below) * in.x[j] * in.dy[j];
        break;
      case Kind::gelu:
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float a = in.x[j], density = exponential<T>(-0.5f * a * a) * 0.39894228040143267794f;
          out[j] = (cumulative_normal(a) + a * density) * in.dy[j];
        }
        break;
      case Kind::silu:
#pragma unroll
        for (int j = 0; j < V; ++j) {
          const float s = sigmoid<T>(in.x[j]);
          out[j] = s * (1 + in.x[j] * (1 - s)) * in.dy[j];
        }
        break;
    }
    store_vec<V>(dx + i, out);
    if (y != nullptr) {
      values<T, V>(kind, below, in.x, out);
      store_vec<V>(y + i, out);
    }
  }
};

float below_zero(Activation f) {
  return static_cast<float>(f.slope * f.slope);
}

}  // namespace

void activation_forward(const Ctx& ctx, Activation f, Tensor x, Tensor y) {
  const int64_t n = x.numel();
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(n, x, y), 8, V, {
                   run_flat<V>(ctx, Forward<T, V>{f.kind, below_zero(f), x.ptr<T>(), y.ptr<T>()}, n);
                 }));
}

void activation_backward(const Ctx& ctx, Activation f, Tensor x, Tensor dy, Tensor dx, Tensor y) {
  const int64_t n = x.numel();
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<8>(n, x, dy, dx, y), 8, V, {
                   const Backward<T, V> op{f.kind,      below_zero(f), x.ptr<T>(),
                                           dy.ptr<T>(), dx.ptr<T>(),   y ? y.ptr<T>() : nullptr};
                   run_flat<V>(ctx, op, n);
                 }));
}

}  // namespace bg::cuda
