// Memory-bound copies between neighbouring chunks: a thread takes a few neighbouring channels of one row.
#include "kernels/chunk_shift.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// out[b,c] = z[b,c-1], start for c = 0.
template <class T, int V>
__global__ void chunk_shift_kernel(const T* __restrict__ z, const float* __restrict__ start, T* __restrict__ out,
                                   unsigned rows, unsigned C, int64_t L) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  for (int64_t i = int64_t{threadIdx.x} * V; i < L; i += int64_t{blockDim.x} * V) {
    Vec<float, V> x;
    if (n % C == 0) {
#pragma unroll
      for (int j = 0; j < V; ++j) x.v[j] = start[i + j];
    } else {
      x = load_floats<V>(z + (int64_t{n} - 1) * L + i);
    }
    store_vec(out + n * L + i, x);
  }
}

}  // namespace

void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  const int64_t C = z.dim(1), L = z.dim(2), rows = z.dim(0) * C;
  if (rows * L == 0) return;
  BG_CUDA_FLOATS(z.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(L, z, out), kIn16Bytes<T>, V, {
                   const RowGrid at(rows, L / V);
                   BG_LAUNCH((chunk_shift_kernel<T, V>), at.grid, at.block, 0, ctx, z.ptr<T>(), start.ptr<float>(),
                             out.ptr<T>(), static_cast<unsigned>(rows), static_cast<unsigned>(C), L);
                 }));
}

namespace {

// dz[b,c] += dout[b,c+1].
template <class T, int V>
__global__ void chunk_shift_backward_kernel(const T* __restrict__ dout, T* __restrict__ dz, unsigned rows, unsigned C,
                                            int64_t L) {
  const unsigned n = row_of_thread();
  if (n >= rows || n % C == C - 1) return;
  for (int64_t i = int64_t{threadIdx.x} * V; i < L; i += int64_t{blockDim.x} * V) {
    Vec<float, V> sum = load_floats<V>(dz + n * L + i);
    const Vec<float, V> g = load_floats<V>(dout + (int64_t{n} + 1) * L + i);
#pragma unroll
    for (int j = 0; j < V; ++j) sum.v[j] += g.v[j];
    store_vec(dz + n * L + i, sum);
  }
}

// dstart += sum_b dout[b,0], a column a thread, in order of b.
template <class T>
__global__ void chunk_start_kernel(const T* __restrict__ dout, float* __restrict__ dstart, int64_t B, int64_t step,
                                   int64_t L) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= L) return;
  float sum = 0;
  for (int64_t b = 0; b < B; ++b) sum += to_float(dout[b * step + i]);
  dstart[i] += sum;
}

}  // namespace

void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  const int64_t B = dz.dim(0), C = dz.dim(1), L = dz.dim(2), rows = B * C;
  if (rows * L == 0) return;
  BG_CUDA_FLOATS(dz.dtype(), T, {
    BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(L, dout, dz), kIn16Bytes<T>, V, {
      const RowGrid at(rows, L / V);
      BG_LAUNCH((chunk_shift_backward_kernel<T, V>), at.grid, at.block, 0, ctx, dout.ptr<T>(), dz.ptr<T>(),
                static_cast<unsigned>(rows), static_cast<unsigned>(C), L);
    });
    BG_LAUNCH(chunk_start_kernel<T>, static_cast<unsigned>(ceil_div(L, int64_t{128})), 128, 0, ctx, dout.ptr<T>(),
              dstart.ptr<float>(), B, C * L, L);
  });
}

}  // namespace bg::cuda
