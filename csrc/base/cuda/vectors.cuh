// V neighbours of a row at a time: how they are read, written and computed with, and where memory allows it.
#pragma once

#include <type_traits>

#include "base/cuda/launch.cuh"

namespace bg::cuda {

/// V elements as they lie in memory, seen as floats. V is 1 (at any address), 4 or 8; the address must then be a
/// multiple of 16, or of the vector's size where that is 8.
template <class T, int V>
struct Vec;
template <int V>
struct alignas(V == 1 ? 4 : 16) Vec<float, V> {
  float v[V];
  __device__ __forceinline__ float operator[](int i) const { return v[i]; }
  __device__ __forceinline__ void set(const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = x[i];
  }
};
template <int V>
struct alignas(2 * V) Vec<bf16, V> {
  static_assert(V % 2 == 0);
  uint32_t pair[V / 2];
  __device__ __forceinline__ float operator[](int i) const {
    return __uint_as_float(i % 2 ? pair[i / 2] & 0xffff0000u : pair[i / 2] << 16);
  }
  __device__ __forceinline__ void set(const float (&x)[V]) {
#pragma unroll
    for (int i = 0; i < V / 2; ++i) {
      const __nv_bfloat162 two = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      pair[i] = *reinterpret_cast<const uint32_t*>(&two);
    }
  }
};
template <>
struct Vec<bf16, 1> {
  bf16 v;
  __device__ __forceinline__ float operator[](int) const { return to_float(v); }
  __device__ __forceinline__ void set(const float (&x)[1]) { v = from_float<bf16>(x[0]); }
};

template <int V, class T>
__device__ __forceinline__ Vec<T, V> load_vec(const T* p) {
  return *reinterpret_cast<const Vec<T, V>*>(p);
}
/// In float32, for sums and updates in place. (By fours through one value, there and back: how the compiler fuses
/// products into sums, and so the last bit, depends on it.)
template <int V, class T>
__device__ __forceinline__ Vec<float, V> load_floats(const T* p) {
  Vec<float, V> out;
  if constexpr (V == 1) {
    out.v[0] = to_float(*p);
  } else if constexpr (V == 4 && std::is_same_v<T, float>) {
    const float4 x = *reinterpret_cast<const float4*>(p);
    out.v[0] = x.x, out.v[1] = x.y, out.v[2] = x.z, out.v[3] = x.w;
  } else if constexpr (V == 4) {
    const uint2 x = *reinterpret_cast<const uint2*>(p);
    out.v[0] = __uint_as_float(x.x << 16), out.v[1] = __uint_as_float(x.x & 0xffff0000u);
    out.v[2] = __uint_as_float(x.y << 16), out.v[3] = __uint_as_float(x.y & 0xffff0000u);
  } else {
    const Vec<T, V> x = load_vec<V>(p);
#pragma unroll
    for (int i = 0; i < V; ++i) out.v[i] = x[i];
  }
  return out;
}
/// Rounds to T.
template <int V, class T>
__device__ __forceinline__ void store_vec(T* p, const float (&x)[V]) {
  Vec<T, V> vec;
  vec.set(x);
  *reinterpret_cast<Vec<T, V>*>(p) = vec;
}
template <int V, class T>
__device__ __forceinline__ void store_vec(T* p, const Vec<float, V>& x) {
  if constexpr (V == 1)
    *p = from_float<T>(x.v[0]);
  else if constexpr (V == 4 && std::is_same_v<T, float>)
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  else
    store_vec<V>(p, x.v);
}

/// Elements in 16 bytes.
template <class T>
constexpr int kIn16Bytes = 16 / sizeof(T);

/// All these tensors begin at multiples of 16 bytes; empty ones do not matter.
template <class... Tensors>
bool at_16_bytes(const Tensors&... tensors) {
  return (reinterpret_cast<uintptr_t>(tensors.data()) | ...) % 16 == 0;
}
/// Rows of D elements of these tensors consist of whole vectors.
template <int V, class... Tensors>
bool whole_vecs(int64_t D, const Tensors&... tensors) {
  return D % V == 0 && at_16_bytes(tensors...);
}

/// Runs body with V = `widest` where `whole` holds, else with V = 1.
#define BG_VEC_WIDTH(whole, widest, V, ...) \
  do {                                      \
    if (whole) {                            \
      constexpr int V = widest;             \
      __VA_ARGS__;                          \
    } else {                                \
      constexpr int V = 1;                  \
      __VA_ARGS__;                          \
    }                                       \
  } while (false)

}  // namespace bg::cuda
