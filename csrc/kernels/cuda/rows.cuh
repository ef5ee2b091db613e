// Row-wise kernels over (rows, width) activations: a thread takes V neighbours of a row, 16 bytes of them where rows
// allow it, one otherwise.
#pragma once

#include <algorithm>

#include "base/cuda/launch.cuh"

namespace bg::cuda {

/// V neighbours in float32.
template <int V>
struct Lanes {
  float v[V];
};
template <class T, int V>
__device__ __forceinline__ Lanes<V> load_lanes(const T* p) {
  Lanes<V> out;
  if constexpr (V == 1) {
    out.v[0] = to_float(*p);
  } else {
    static_assert(V == Pack<T>::kSize);
    const Pack<T> pack = load_pack(p);
#pragma unroll
    for (int i = 0; i < V; ++i) out.v[i] = to_float(pack.v[i]);
  }
  return out;
}
template <class T, int V>
__device__ __forceinline__ void store_lanes(T* p, const Lanes<V>& x) {
  if constexpr (V == 1) {
    *p = from_float<T>(x.v[0]);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < V; ++i) pack.v[i] = from_float<T>(x.v[i]);
    store_pack(p, pack);
  }
}

/// Whether rows of `width` elements at these addresses consist of whole packs.
template <class T>
bool whole_packs(int64_t width, std::initializer_list<const void*> addresses) {
  return width % Pack<T>::kSize == 0 && std::all_of(addresses.begin(), addresses.end(), [](const void* p) {
           return reinterpret_cast<uintptr_t>(p) % 16 == 0;
         });
}
/// Runs body with V = the neighbours of a thread.
#define BG_LANES(T, V, whole_, ...)                 \
  do {                                              \
    if (whole_) {                                   \
      constexpr int V = ::bg::cuda::Pack<T>::kSize; \
      __VA_ARGS__;                                  \
    } else {                                        \
      constexpr int V = 1;                          \
      __VA_ARGS__;                                  \
    }                                               \
  } while (false)

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

}  // namespace bg::cuda
