// Sums of integers: atomic additions give the same number in any order.
#include "kernels/fingerprint.h"

#include <algorithm>

#include "base/cuda/launch.cuh"
#include "tensor/buffer.h"

namespace bg::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    fingerprint_kernel(const uint32_t* __restrict__ x, int64_t n, unsigned long long* __restrict__ out) {
  unsigned long long sum = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += int64_t{gridDim.x} * kThreads)
    sum += fingerprint_of(x[i], static_cast<uint64_t>(i));
  sum = block_sum(sum);
  if (threadIdx.x == 0) atomicAdd(out, sum);
}

}  // namespace

void fingerprints(const Ctx& ctx, std::span<const Tensor> tensors, std::vector<uint64_t>& out) {
  if (tensors.empty()) return;
  const Buffer sums(tensors.size() * sizeof(uint64_t), Device::cuda);
  auto* to = static_cast<unsigned long long*>(sums.data());
  for (const Tensor& x : tensors) {
    const auto blocks = static_cast<unsigned>(std::clamp<int64_t>(ceil_div(x.numel(), int64_t{kThreads} * 8), 1, 1024));
    BG_LAUNCH(fingerprint_kernel, blocks, kThreads, 0, ctx, reinterpret_cast<const uint32_t*>(x.ptr<float>()),
              x.numel(), to++);
  }
  bg::copy_bytes(ctx, out.data(), Device::cpu, sums.data(), Device::cuda, sums.size_bytes());
}

}  // namespace bg::cuda
