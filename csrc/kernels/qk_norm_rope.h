// Queries and keys as attention wants them: normed per head, rotated by position, queries times a learned gain.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// Angles of rotation, computed in float64: table (T, r) holds cos in columns 0..r/2-1 and sin in r/2..r-1 of
/// t * base^(-2j/r). Beyond `train_len` positions base is multiplied by (T/train_len)^(r/(r-2)); r = 2 is refused
/// there.
void rope_table(const Ctx& ctx, double base, int64_t train_len, Tensor table);

/// From a packed row qkv (B,T,(H+2G)d): q (B,T,H,d) = gain[h] * rope(rms(q)), k (B,T,G,d) = rope(rms(k)). The values
/// stay where they are. rope turns the first r dims, halves paired: (a, b) -> (a cos + b sin, -a sin + b cos). rstd
/// (B,T,H+G) is kept for backward.
void qk_norm_rope_forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k,
                          Tensor rstd);
/// From dq, dk: the first (H+G)d columns of dqkv (set), dgain (H) +=.
void qk_norm_rope_backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk,
                           Tensor dqkv, Tensor dgain);

}  // namespace bg
