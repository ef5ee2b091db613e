// Exclusive self-attention: what attention returns loses its part along the position's own value.
// All throw InvalidArgument when shapes disagree.
// Source: Zhai 2026, Exclusive Self Attention, arXiv:2603.09078; on some layers only, with grouped heads:
// github.com/openai/parameter-golf, PR 265.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// u = v / max(|v|, 1e-12); out = y - (y.u) u, per position and head, head h with the value of group h/(H/G).
/// y, out (B,T,H,d), contiguous, may be the same; v (B,T,G,d), last dimension contiguous.
void xsa_forward(const Ctx& ctx, Tensor y, Tensor v, Tensor out);
/// dy = dout - (dout.u) u (set, may be dout).
void xsa_backward_input(const Ctx& ctx, Tensor v, Tensor dout, Tensor dy);
/// dv += the derivative through u, summed over the heads of a group. dv may be strided like v.
void xsa_backward_value(const Ctx& ctx, Tensor y, Tensor v, Tensor dout, Tensor dv);

}  // namespace bg
