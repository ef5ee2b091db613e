// Element-wise updates over flat ranges: bound by memory, so four numbers at a time and one block per kUpdateBlock
// elements. A whole optimiser step in few launches is optim/cuda/fused_step.cu.
#include "kernels/cuda/update.cuh"

#include "base/memory.h"

namespace bg::cuda {
namespace {

constexpr int kThreads = 512;

unsigned blocks(int64_t n) {
  return static_cast<unsigned>(update_blocks(n));
}
__device__ __forceinline__ int64_t block_start() {
  return int64_t{blockIdx.x} * kUpdateBlock;
}
__device__ __forceinline__ int block_count(int64_t n) {
  const int64_t left = n - block_start();
  return static_cast<int>(left < kUpdateBlock ? left : kUpdateBlock);
}

float* or_null(const Tensor& t) {
  return t ? t.ptr<float>() : nullptr;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const T* __restrict__ x, int64_t n, bool aligned, double* __restrict__ partial) {
  const T* const mine = x + block_start();
  double sum = 0;
  for_elements(block_count(n), aligned, [&](auto width, int i) {
    const auto lane = load_floats<width.value>(mine + i);
#pragma unroll
    for (int j = 0; j < width.value; ++j) {
      const double value = static_cast<double>(lane.v[j]);
      sum += value * value;
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads)
    adam_kernel(AdamNumbers numbers, float scale, float weight, int64_t n, bool aligned, float* p, const float* g,
                float* m, float* v, float* average) {
  const int64_t at = block_start();
  for_elements(block_count(n), aligned, [&](auto width, int i) {
    constexpr int W = width.value;
    auto value = load_floats<W>(p + at + i), first = load_floats<W>(m + at + i), second = load_floats<W>(v + at + i);
    const auto gradient = load_floats<W>(g + at + i);
#pragma unroll
    for (int j = 0; j < W; ++j)
      value.v[j] = adam_element(numbers, value.v[j], scale * gradient.v[j], first.v[j], second.v[j]);
    store_vec(p + at + i, value), store_vec(m + at + i, first), store_vec(v + at + i, second);
    if (average == nullptr) return;
    auto mean = load_floats<W>(average + at + i);
#pragma unroll
    for (int j = 0; j < W; ++j) mean.v[j] += weight * (value.v[j] - mean.v[j]);
    store_vec(average + at + i, mean);
  });
}

__global__ void __launch_bounds__(kThreads)
    momentum_kernel(float mu, float scale, int64_t n, bool aligned, const float* g, float* buf, float* u) {
  const int64_t at = block_start();
  for_elements(block_count(n), aligned, [&](auto width, int i) {
    constexpr int W = width.value;
    const auto gradient = load_floats<W>(g + at + i);
    auto buffer = load_floats<W>(buf + at + i);
    Vec<float, W> update;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float scaled = scale * gradient.v[j];
      buffer.v[j] = mu * buffer.v[j] + scaled;
      update.v[j] = scaled + mu * buffer.v[j];
    }
    store_vec(buf + at + i, buffer), store_vec(u + at + i, update);
  });
}

__global__ void __launch_bounds__(kThreads) decayed_kernel(float keep, float lr, float weight, int64_t n, bool aligned,
                                                           const float* o, float* p, float* average) {
  const int64_t at = block_start();
  for_elements(block_count(n), aligned, [&](auto width, int i) {
    constexpr int W = width.value;
    const auto step = load_floats<W>(o + at + i);
    auto value = load_floats<W>(p + at + i);
#pragma unroll
    for (int j = 0; j < W; ++j) value.v[j] = keep * value.v[j] - lr * step.v[j];
    store_vec(p + at + i, value);
    if (average == nullptr) return;
    auto mean = load_floats<W>(average + at + i);
#pragma unroll
    for (int j = 0; j < W; ++j) mean.v[j] += weight * (value.v[j] - mean.v[j]);
    store_vec(average + at + i, mean);
  });
}

__global__ void __launch_bounds__(kThreads)
    average_kernel(float weight, int64_t n, bool aligned, const float* x, float* average) {
  const int64_t at = block_start();
  for_elements(block_count(n), aligned, [&](auto width, int i) {
    constexpr int W = width.value;
    const auto value = load_floats<W>(x + at + i);
    auto mean = load_floats<W>(average + at + i);
#pragma unroll
    for (int j = 0; j < W; ++j) mean.v[j] += weight * (value.v[j] - mean.v[j]);
    store_vec(average + at + i, mean);
  });
}

}  // namespace

void enqueue_squares(const Ctx& ctx, Tensor x, double* partial) {
  if (x.numel() == 0) return;
  BG_CUDA_FLOATS(x.dtype(), T,
                 BG_LAUNCH(squares_kernel<T>, blocks(x.numel()), kThreads, 0, ctx, x.ptr<T>(), x.numel(),
                           at_16_bytes(x), partial));
}

void sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial) {
  const size_t size_bytes = static_cast<size_t>(update_blocks(x.numel())) * sizeof(double);
  double* const sums = static_cast<double*>(ctx.cuda->scratch(size_bytes));
  enqueue_squares(ctx, x, sums);
  bg::copy_bytes(ctx, partial.data(), Device::cpu, sums, Device::cuda, size_bytes);
}

void adam_step(const Ctx& ctx, const AdamStep& step, Tensor p, Tensor g, Tensor m, Tensor v, Tensor average) {
  BG_LAUNCH(adam_kernel, blocks(p.numel()), kThreads, 0, ctx, adam_numbers(step), static_cast<float>(step.grad_scale),
            static_cast<float>(step.average_weight), p.numel(), at_16_bytes(p, g, m, v, average), p.ptr<float>(),
            g.ptr<float>(), m.ptr<float>(), v.ptr<float>(), or_null(average));
}

void muon_momentum_step(const Ctx& ctx, double mu, double grad_scale, Tensor g, Tensor buf, Tensor u) {
  BG_LAUNCH(momentum_kernel, blocks(g.numel()), kThreads, 0, ctx, static_cast<float>(mu),
            static_cast<float>(grad_scale), g.numel(), at_16_bytes(g, buf, u), g.ptr<float>(), buf.ptr<float>(),
            u.ptr<float>());
}

void decayed_step(const Ctx& ctx, double keep, double lr, Tensor o, Tensor p, double average_weight, Tensor average) {
  BG_LAUNCH(decayed_kernel, blocks(p.numel()), kThreads, 0, ctx, static_cast<float>(keep), static_cast<float>(lr),
            static_cast<float>(average_weight), p.numel(), at_16_bytes(o, p, average), o.ptr<float>(), p.ptr<float>(),
            or_null(average));
}

void average_step(const Ctx& ctx, double weight, Tensor x, Tensor average) {
  BG_LAUNCH(average_kernel, blocks(x.numel()), kThreads, 0, ctx, static_cast<float>(weight), x.numel(),
            at_16_bytes(x, average), x.ptr<float>(), average.ptr<float>());
}

}  // namespace bg::cuda
