// From raw scores to nats and back: soft cap, softmax, cross-entropy. All throw InvalidArgument when shapes disagree.
// Source of the soft cap: Gemma Team 2024, Gemma 2, arXiv:2408.00118.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// x = cap * tanh(x / cap) in place, any shape, contiguous; cap = 0 leaves x alone, a negative one is refused.
void softcap(const Ctx& ctx, double cap, Tensor x);

/// nll[n] = ln sum_v exp(logits[n,v]) - logits[n,targets[n]] in nats, 0 where targets[n] is -1.
/// logits (N,V), of ctx.full_dtype() as lse; targets (N) i32 in -1..V-1; nll (N) f64; lse (N) receives the logarithm,
/// kept for backward.
void softmax_xent_forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse);
/// The gradient before the soft cap of scale * sum_n nll[n]: dlogits = scale * (softmax - onehot) * (1 - (logits /
/// cap)^2), zero rows where targets[n] is -1. dlogits (N,V) may be logits; bfloat16 beside float32 logits on CUDA.
void softmax_xent_backward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor lse, double cap, double scale,
                           Tensor dlogits);

}  // namespace bg
