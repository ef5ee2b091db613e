// Attention for any head size, stride, document layout and range of keys, in float32 arithmetic.
// kernels/cuda/attention.cu chooses; cross_attention_forward() and _backward() of kernels/attention.h are here alone,
// heads of at most 256.
#pragma once

#include "kernels/attention.h"

namespace bg::cuda {

/// As bg::attention_forward, heads of at most 256.
void attention_forward_general(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                               Tensor lse);
/// As bg::attention_backward, heads of at most 256.
void attention_backward_general(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start,
                                Tensor y, Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);

}  // namespace bg::cuda
