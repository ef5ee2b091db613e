// Memory-bound copies and sums between positions and chunks: a thread takes a few neighbouring channels of one row.
#include "kernels/chunk.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// out[b,c] = factor * sum of x[b,t] over chunk c; rows are the B*C chunks.
template <class T, int V>
__global__ void chunk_sums_kernel(const T* __restrict__ x, T* __restrict__ out, unsigned rows, unsigned C, int64_t L,
                                  int64_t D, int64_t chunk, float factor) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const int64_t first = n / C * L + n % C * chunk;
  for (int64_t i = int64_t{threadIdx.x} * V; i < D; i += int64_t{blockDim.x} * V) {
    Vec<float, V> sum{};
    for (int64_t t = 0; t < chunk; ++t) {
      const Vec<float, V> a = load_floats<V>(x + (first + t) * D + i);
#pragma unroll
      for (int j = 0; j < V; ++j) sum.v[j] += a.v[j];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) sum.v[j] *= factor;
    store_vec(out + n * D + i, sum);
  }
}

void chunk_sums(const Ctx& ctx, Tensor x, int64_t chunk, float factor, Tensor out) {
  const int64_t L = x.dim(1), D = x.dim(2), C = out.dim(1), rows = x.dim(0) * C;
  if (rows * D == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(D, x, out), kIn16Bytes<T>, V, {
                   const RowGrid at(rows, D / V);
                   BG_LAUNCH((chunk_sums_kernel<T, V>), at.grid, at.block, 0, ctx, x.ptr<T>(), out.ptr<T>(),
                             static_cast<unsigned>(rows), static_cast<unsigned>(C), L, D, chunk, factor);
                 }));
}

}  // namespace

void chunk_mean(const Ctx& ctx, Tensor x, int64_t chunk, Tensor m) {
  chunk_sums(ctx, x, chunk, 1 / static_cast<float>(chunk), m);
}
void chunk_add_backward(const Ctx& ctx, Tensor dx, int64_t chunk, Tensor da) {
  chunk_sums(ctx, dx, chunk, 1, da);
}

namespace {

// x[b,t] += a[b,c]; rows are the positions of whole chunks.
template <class T, int V>
__global__ void chunk_add_kernel(const T* __restrict__ a, T* __restrict__ x, unsigned rows, unsigned C, int64_t L,
                                 int64_t D, unsigned chunk) {
  const unsigned n = row_of_thread();
  if (n >= rows) return;
  const unsigned whole = C * chunk, b = n / whole, t = n % whole;
  const T* from = a + (int64_t{b} * C + t / chunk) * D;
  T* to = x + (b * L + t) * D;
  for (int64_t i = int64_t{threadIdx.x} * V; i < D; i += int64_t{blockDim.x} * V) {
    Vec<float, V> sum = load_floats<V>(to + i);
    const Vec<float, V> add = load_floats<V>(from + i);
#pragma unroll
    for (int j = 0; j < V; ++j) sum.v[j] += add.v[j];
    store_vec(to + i, sum);
  }
}

}  // namespace

void chunk_add_forward(const Ctx& ctx, Tensor a, int64_t chunk, Tensor x) {
  const int64_t L = x.dim(1), D = x.dim(2), C = a.dim(1), rows = x.dim(0) * C * chunk;
  if (rows * D == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(D, a, x), kIn16Bytes<T>, V, {
                   const RowGrid at(rows, D / V);
                   BG_LAUNCH((chunk_add_kernel<T, V>), at.grid, at.block, 0, ctx, a.ptr<T>(), x.ptr<T>(),
                             static_cast<unsigned>(rows), static_cast<unsigned>(C), L, D, static_cast<unsigned>(chunk));
                 }));
}

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

namespace {

// A thread takes one channel of one row through all its positions. next may be added: no __restrict__ here.
template <class T>
__global__ void chunk_step_kernel(T* x, const int32_t* at, const int32_t* limit, int64_t n, int64_t D, int chunk,
                                  float factor, const T* next, float* sum, T* mean, T* added) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, b = blockIdx.y;
  const int first = at[b];
  if (i >= D || first < 0) return;
  const int64_t place = b * D + i;
  float total = sum[place];
  T add = added[place];
  for (int64_t step = 0; step < n; ++step) {
    const int t = first + static_cast<int>(step), inside = t % chunk;
    T* const to = x + (b * n + step) * D + i;
    const float value = to_float(*to);
    total = inside == 0 ? value : total + value;
    if (inside == 0) add = next[place];
    if (inside == chunk - 1) mean[place] = from_float<T>(total * factor);
    if (t < limit[b]) *to = from_float<T>(value + to_float(add));
  }
  sum[place] = total;
  added[place] = add;
}

}  // namespace

void chunk_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t chunk, Tensor next, Tensor sum, Tensor mean,
                Tensor added) {
  const int64_t B = x.dim(0), n = x.dim(1), D = x.dim(2);
  if (B * D == 0) return;
  constexpr int kThreads = 128;
  const dim3 grid(static_cast<unsigned>(ceil_div(D, int64_t{kThreads})), static_cast<unsigned>(B));
  BG_CUDA_FLOATS(x.dtype(), T,
                 BG_LAUNCH(chunk_step_kernel<T>, grid, kThreads, 0, ctx, x.ptr<T>(), at.ptr<int32_t>(),
                           limit.ptr<int32_t>(), n, D, static_cast<int>(chunk), 1 / static_cast<float>(chunk),
                           next.ptr<T>(), sum.ptr<float>(), mean.ptr<T>(), added.ptr<T>()));
}

}  // namespace bg::cuda
