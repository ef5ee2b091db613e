#include "kernels/take_rows.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

template <class T, int V>
__global__ void take_rows_kernel(const T* __restrict__ x, const int32_t* __restrict__ index, T* __restrict__ y,
                                 unsigned rows, int64_t D) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const int64_t from = index[n];
  for (int64_t i = int64_t{threadIdx.x} * V; i < D; i += int64_t{blockDim.x} * V) {
    Vec<float, V> out{};
    if (from >= 0) out = load_floats<V>(x + from * D + i);
    store_vec(y + n * D + i, out);
  }
}

}  // namespace

void take_rows(const Ctx& ctx, Tensor x, Tensor index, Tensor y) {
  const int64_t D = x.dim(1), rows = y.dim(0);
  if (rows * D == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(D, x, y), kIn16Bytes<T>, V, {
                   const RowGrid at(rows, D / V);
                   BG_LAUNCH((take_rows_kernel<T, V>), at.grid, at.block, 0, ctx, x.ptr<T>(), index.ptr<int32_t>(),
                             y.ptr<T>(), static_cast<unsigned>(rows), D);
                 }));
}

}  // namespace bg::cuda
