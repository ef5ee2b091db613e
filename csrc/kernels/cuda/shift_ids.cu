// One thread an id.
#include "kernels/shift_ids.h"

#include "base/cuda/launch.cuh"

namespace bg::cuda {
namespace {

__global__ void shift_ids_kernel(const int32_t* ids, int64_t T, int64_t K, int64_t n, int32_t* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = ids[i / (T - K) * T + i % (T - K) + K];
}

}  // namespace

void shift_ids(const Ctx& ctx, Tensor ids, int64_t K, Tensor out) {
  const int64_t n = out.numel();
  if (n == 0) return;
  BG_LAUNCH(shift_ids_kernel, static_cast<unsigned>(ceil_div(n, int64_t{256})), 256, 0, ctx, ids.ptr<int32_t>(),
            ids.dim(1), K, n, out.ptr<int32_t>());
}

}  // namespace bg::cuda
