// Queries and keys as attention wants them: normed per head, rotated by position, queries times a learned gain.
// All throw InvalidArgument when shapes disagree.
// Source: Henry et al. 2020, Query-Key Normalization, arXiv:2010.04245 (the norm, here by root mean square, and the
// gain); Su et al. 2021, RoFormer, arXiv:2104.09864 (the rotation); github.com/openai/parameter-golf, PR 315 (of r dims
// only).
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// Angles of rotation, computed in float64: table (T, r) holds cos in columns 0..r/2-1 and sin in r/2..r-1 of
/// t * base^(-2j/r). When T > train_len, base is multiplied by (T/train_len)^(r/(r-2)); r = 2 is then refused, as
/// is an odd r.
void rope_table(const Ctx& ctx, double base, int64_t train_len, Tensor table);

/// From a packed row qkv (B,T,(H+2G)d): q (B,T,H,d) = gain[h] * rope(rms(q)), k (B,T,G,d) = rope(rms(k)). The values
/// stay where they are. rope rotates the first r dims, halves paired: (a, b) -> (a cos + b sin, -a sin + b cos). rstd
/// (B,T,H+G) is kept for backward.
void qk_norm_rope_forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k,
                          Tensor rstd);
/// From dq, dk: the first (H+G)d columns of dqkv (set), dgain (H) +=.
void qk_norm_rope_backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk,
                           Tensor dqkv, Tensor dgain);

}  // namespace bg
