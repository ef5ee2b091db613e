// A value of 8 L elements, L = 1, 2, 4, .. 32, lies in L neighbouring lanes by eights, beside the vectors of each head
// of its group in turn. Other sizes take a warp per value.
#include "kernels/xsa.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

constexpr float kSmallest = 1e-12f;         // of a value's norm
constexpr int kThreads = 256, kAtOnce = 2;  // values per thread

struct Sizes {
  int64_t N, L;  // positions in all, per row
  int H, G, d;
  int64_t s0, s1, s2;  // strides of v (B, T, G, d)
  int64_t t0, t1, t2;  // strides of dv
};

__device__ __forceinline__ float group_sum(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// Value number i of N G: position n, group g.
struct Place {
  int64_t n, b, t;
  int g;
  __device__ __forceinline__ Place(int64_t i, const Sizes& s) {
    if (i < (int64_t{1} << 31)) {  // short divisions
      const uint32_t j = static_cast<uint32_t>(i), G = s.G, L = static_cast<uint32_t>(s.L), at = j / G;
      n = at;
      g = static_cast<int>(j % G);
      b = at / L;
      t = at % L;
    } else {
      n = i / s.G;
      g = static_cast<int>(i % s.G);
      b = n / s.L;
      t = n % s.L;
    }
  }
  __device__ __forceinline__ int64_t value(const Sizes& s) const { return b * s.s0 + t * s.s1 + g * s.s2; }
  __device__ __forceinline__ int64_t gradient(const Sizes& s) const { return b * s.t0 + t * s.t1 + g * s.t2; }
  // Of the group's first head; the others follow.
  __device__ __forceinline__ int64_t heads(const Sizes& s) const {
    return (n * s.H + static_cast<int64_t>(g) * (s.H / s.G)) * s.d;
  }
};

// out = y - (y.v) v / max(|v|, smallest)^2.
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    forward_kernel(const T* y, const T* __restrict__ v, const Sizes s, int lanes, T* out) {
  const int lane = threadIdx.x % lanes, groups = kThreads / lanes, per = s.H / s.G;
  const int64_t all = s.N * s.G;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * groups * kAtOnce + threadIdx.x / lanes;
  Vec<T, 8> value[kAtOnce];
  int64_t at[kAtOnce];
  float inverse[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const int64_t i = first + static_cast<int64_t>(k) * groups;
    const Place place(min(i, all - 1), s);  // beyond the end the last again, unwritten: all lanes shuffle
    value[k] = load_vec<8>(v + place.value(s) + lane * 8);
    at[k] = i < all ? place.heads(s) + lane * 8 : -1;
  }
  for (int h = 0; h < per; h += 2) {
    Vec<T, 8> row[kAtOnce][2];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        row[k][e] = {};
        if (at[k] >= 0 && h + e < per) row[k][e] = load_vec<8>(y + at[k] + static_cast<int64_t>(h + e) * s.d);
      }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (h == 0) {
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) sum += value[k][j] * value[k][j];
        const float norm = fmaxf(sqrtf(group_sum(sum, lanes)), kSmallest);
        inverse[k] = 1.0f / (norm * norm);
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float dot = 0, result[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) dot += row[k][e][j] * value[k][j];
        const float along = group_sum(dot, lanes) * inverse[k];
        if (at[k] < 0 || h + e >= per) continue;
#pragma unroll
        for (int j = 0; j < 8; ++j) result[j] = row[k][e][j] - along * value[k][j];
        store_vec<8>(out + at[k] + static_cast<int64_t>(h + e) * s.d, result);
      }
    }
  }
}

// With m = max(|v|, smallest), u = v / m:  dv += sum over heads of (2 (y.u) (g.u) u - (g.u) y - (y.u) g) / m, where the
// first term is left out if |v| is not above the smallest.
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
    backward_value_kernel(const T* __restrict__ y, const T* __restrict__ v, const T* __restrict__ dout, const Sizes s,
                          int lanes, T* __restrict__ dv) {
  const int lane = threadIdx.x % lanes, groups = kThreads / lanes, per = s.H / s.G;
  const int64_t all = s.N * s.G, i = static_cast<int64_t>(blockIdx.x) * groups + threadIdx.x / lanes;
  const Place place(min(i, all - 1), s);
  const auto value = load_vec<8>(v + place.value(s) + lane * 8);
  T* const gradient = dv + place.gradient(s) + lane * 8;
  const auto old = load_vec<8>(gradient);
  const int64_t at = place.heads(s) + lane * 8;
  float sum[8] = {}, inverse = 0, norm = 0;
  for (int h = 0; h < per; h += 2) {
    Vec<T, 8> row[2], g[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      row[e] = g[e] = {};
      if (h + e >= per) continue;
      row[e] = load_vec<8>(y + at + static_cast<int64_t>(h + e) * s.d);
      g[e] = load_vec<8>(dout + at + static_cast<int64_t>(h + e) * s.d);
    }
    if (h == 0) {
      float square = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) square += value[j] * value[j];
      norm = sqrtf(group_sum(square, lanes));
      inverse = 1.0f / fmaxf(norm, kSmallest);
    }
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float yv = 0, gv = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        yv += row[e][j] * value[j];
        gv += g[e][j] * value[j];
      }
      const float yu = group_sum(yv, lanes) * inverse, gu = group_sum(gv, lanes) * inverse;
      const float along = norm > kSmallest ? 2 * yu * gu * inverse : 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] += (along * value[j] - gu * row[e][j] - yu * g[e][j]) * inverse;
    }
  }
  if (i >= all) return;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum[j] += old[j];
  store_vec<8>(gradient, sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads) forward_any_kernel(const T* y, const T* v, const Sizes s, T* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (i >= s.N * s.G) return;
  const Place place(i, s);
  const T* value = v + place.value(s);
  float square = 0;
  for (int j = lane; j < s.d; j += 32) square += to_float(value[j]) * to_float(value[j]);
  const float norm = fmaxf(sqrtf(warp_sum(square)), kSmallest);
  for (int h = 0; h < s.H / s.G; ++h) {
    const int64_t at = place.heads(s) + static_cast<int64_t>(h) * s.d;
    float dot = 0;
    for (int j = lane; j < s.d; j += 32) dot += to_float(y[at + j]) * to_float(value[j]);
    const float along = warp_sum(dot) / (norm * norm);
    for (int j = lane; j < s.d; j += 32) out[at + j] = from_float<T>(to_float(y[at + j]) - along * to_float(value[j]));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    backward_value_any_kernel(const T* y, const T* v, const T* dout, const Sizes s, T* dv) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32, per = s.H / s.G;
  if (i >= s.N * s.G) return;
  const Place place(i, s);
  const T* value = v + place.value(s);
  T* gradient = dv + place.gradient(s);
  float square = 0;
  for (int j = lane; j < s.d; j += 32) square += to_float(value[j]) * to_float(value[j]);
  const float norm = sqrtf(warp_sum(square)), m = fmaxf(norm, kSmallest);
  for (int h = 0; h < per; ++h) {
    const T *row = y + place.heads(s) + static_cast<int64_t>(h) * s.d,
            *g = dout + place.heads(s) + static_cast<int64_t>(h) * s.d;
    float yv = 0, gv = 0;
    for (int j = lane; j < s.d; j += 32) {
      yv += to_float(row[j]) * to_float(value[j]);
      gv += to_float(g[j]) * to_float(value[j]);
    }
    const float yu = warp_sum(yv) / m, gu = warp_sum(gv) / m;
    const float along = norm > kSmallest ? 2 * yu * gu / m : 0.0f;
    for (int j = lane; j < s.d; j += 32) {
      const float part = (along * to_float(value[j]) - gu * to_float(row[j]) - yu * to_float(g[j])) / m;
      gradient[j] = from_float<T>(to_float(gradient[j]) + part);
    }
  }
}

Sizes sizes_of(Tensor y, Tensor v, Tensor dv) {
  Sizes s{};
  s.L = y.dim(1);
  s.N = y.dim(0) * s.L;
  s.H = static_cast<int>(y.dim(2));
  s.G = static_cast<int>(v.dim(2));
  s.d = static_cast<int>(y.dim(3));
  s.s0 = v.stride(0);
  s.s1 = v.stride(1);
  s.s2 = v.stride(2);
  s.t0 = dv.stride(0);
  s.t1 = dv.stride(1);
  s.t2 = dv.stride(2);
  return s;
}

// Lanes per value, or 0 where vectors are not taken by eights.
template <class... Tensors>
int lanes_of(const Sizes& s, const Tensors&... tensors) {
  const int lanes = s.d / 8;
  const bool power = lanes > 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
  const bool steps = ((s.s0 | s.s1 | s.s2 | s.t0 | s.t1 | s.t2) & 7) == 0;
  return power && steps && whole_vecs<8>(s.d, tensors...) ? lanes : 0;
}

}  // namespace

void xsa_forward(const Ctx& ctx, Tensor y, Tensor v, Tensor out) {
  if (y.numel() == 0) return;
  const Sizes s = sizes_of(y, v, v);
  const int lanes = lanes_of(s, y, v, out);
  BG_CUDA_FLOATS(y.dtype(), T, {
    if (lanes > 0) {
      const int64_t per_block = kThreads / lanes * kAtOnce;
      BG_LAUNCH((forward_kernel<T>), static_cast<unsigned>(ceil_div(s.N * s.G, per_block)), kThreads, 0, ctx,
                y.ptr<T>(), v.ptr<T>(), s, lanes, out.ptr<T>());
    } else {
      BG_LAUNCH((forward_any_kernel<T>), static_cast<unsigned>(ceil_div(s.N * s.G, int64_t{kThreads / 32})), kThreads,
                0, ctx, y.ptr<T>(), v.ptr<T>(), s, out.ptr<T>());
    }
  });
}

void xsa_backward_value(const Ctx& ctx, Tensor y, Tensor v, Tensor dout, Tensor dv) {
  if (y.numel() == 0) return;
  const Sizes s = sizes_of(y, v, dv);
  const int lanes = lanes_of(s, y, v, dout, dv);
  BG_CUDA_FLOATS(y.dtype(), T, {
    if (lanes > 0) {
      BG_LAUNCH((backward_value_kernel<T>), static_cast<unsigned>(ceil_div(s.N * s.G, int64_t{kThreads / lanes})),
                kThreads, 0, ctx, y.ptr<T>(), v.ptr<T>(), dout.ptr<T>(), s, lanes, dv.ptr<T>());
    } else {
      BG_LAUNCH((backward_value_any_kernel<T>), static_cast<unsigned>(ceil_div(s.N * s.G, int64_t{kThreads / 32})),
                kThreads, 0, ctx, y.ptr<T>(), v.ptr<T>(), dout.ptr<T>(), s, dv.ptr<T>());
    }
  });
}

}  // namespace bg::cuda
