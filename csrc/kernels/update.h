// What optimisers and averages do element by element, over flat ranges of parameter-shaped arenas.
//
// All tensors are contiguous, of one dtype (float32 or float64; on CUDA float32) and one length n. Work is cut into
// fixed blocks, sums are float64 per block and added up in block order: the bits do not depend on the number of
// threads. All throw InvalidArgument when lengths, dtypes or devices differ.
#pragma once

#include <span>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// Elements of one block of work.
inline constexpr int64_t kUpdateBlock = 1 << 14;
constexpr int64_t update_blocks(int64_t n) {
  return (n + kUpdateBlock - 1) / kUpdateBlock;
}

/// sum_i x[i]^2 in float64; `partial` is scratch for update_blocks(n) numbers (fewer: InvalidArgument). Not finite
/// when some x[i] is not.
double sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial);

/// One step of Adam with decoupled decay.
struct AdamStep {
  double lr = 0;
  double beta1 = 0, beta2 = 0, eps = 0;
  double keep = 1;                          // 1 - lr * weight decay
  double correction1 = 1, correction2 = 1;  // 1 - beta^(n + 1)
  double grad_scale = 1;                    // of clipping
  double average_weight = 0;                // 1 - decay of the running average
};
/// g' = grad_scale g;  m = beta1 m + (1 - beta1) g';  v = beta2 v + (1 - beta2) g'^2;
/// p = keep p - lr (m / correction1) / (sqrt(v / correction2) + eps), no step where that divisor is 0;
/// average += average_weight (p - average), unless `average` is an empty tensor.
/// Source: Kingma and Ba 2015, arXiv:1412.6980; Loshchilov and Hutter 2019, arXiv:1711.05101.
void adam_step(const Ctx& ctx, const AdamStep& step, Tensor p, Tensor g, Tensor m, Tensor v, Tensor average);

/// Muon's momentum: g' = grad_scale g;  buf = mu buf + g';  u = g' + mu buf.
void muon_momentum_step(const Ctx& ctx, double mu, double grad_scale, Tensor g, Tensor buf, Tensor u);

/// p = keep p - lr o;  average += average_weight (p - average), unless `average` is an empty tensor.
void decayed_step(const Ctx& ctx, double keep, double lr, Tensor o, Tensor p, double average_weight, Tensor average);

/// average += weight (x - average): an average of equal values stays what it is, to the bit.
void average_step(const Ctx& ctx, double weight, Tensor x, Tensor average);

namespace cpu {
/// One partial sum per block; the caller adds them up.
void sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial);
void adam_step(const Ctx& ctx, const AdamStep& step, Tensor p, Tensor g, Tensor m, Tensor v, Tensor average);
void muon_momentum_step(const Ctx& ctx, double mu, double grad_scale, Tensor g, Tensor buf, Tensor u);
void decayed_step(const Ctx& ctx, double keep, double lr, Tensor o, Tensor p, double average_weight, Tensor average);
void average_step(const Ctx& ctx, double weight, Tensor x, Tensor average);
}  // namespace cpu

namespace cuda {
/// As on the CPU; waits for the sums.
void sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial);
}  // namespace cuda
}  // namespace bg
BG_CUDA_DECLARE(adam_step)
BG_CUDA_DECLARE(muon_momentum_step)
BG_CUDA_DECLARE(decayed_step)
BG_CUDA_DECLARE(average_step)
