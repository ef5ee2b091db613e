// Attention for Hopper in bf16 with heads of 64: matrix units fed by the copy engine. kernels/cuda/attention.cu
// chooses.
#pragma once

#include "kernels/attention.h"

namespace bg::cuda {

/// Whether the two functions below serve tensors like these: bf16, d = 64, addresses and strides multiples of 16 bytes.
/// Give every (B, T, heads, d) operand of the call.
bool attention_hopper_serves(const Ctx& ctx, std::initializer_list<Tensor> operands);

/// As bg::attention_forward; doc_start must not decrease along T.
void attention_forward_hopper(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                              Tensor lse, Tensor gain);
/// As bg::attention_backward; doc_start must not decrease along T.
void attention_backward_hopper(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                               Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);

}  // namespace bg::cuda
