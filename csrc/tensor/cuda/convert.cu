// One thread converts eight neighbours; the rest of the arena one by one.
#include "tensor/convert.h"

#include "base/cuda/vectors.cuh"

namespace bg::cuda {
namespace {

template <class From, class To>
__global__ void convert_kernel(const From* __restrict__ x, To* __restrict__ y, int64_t n, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 8;
  if (aligned && i + 8 <= n) {
    store_vec(y + i, load_floats<8>(x + i));
  } else {
    for (int64_t j = i; j < n && j < i + 8; ++j) y[j] = from_float<To>(to_float(x[j]));
  }
}

}  // namespace

void convert(const Ctx& ctx, Tensor x, Tensor y) {
  const int64_t n = x.numel();
  if (n == 0) return;
  const bool aligned = at_16_bytes(x, y);
  BG_CUDA_FLOATS(x.dtype(), From, BG_CUDA_FLOATS(y.dtype(), To, {
                   BG_LAUNCH((convert_kernel<From, To>), static_cast<unsigned>(ceil_div(n, int64_t{8 * 256})), 256, 0,
                             ctx, x.ptr<From>(), y.ptr<To>(), n, aligned);
                 }));
}

}  // namespace bg::cuda
