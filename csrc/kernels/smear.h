// A learned, per-channel mix of each position with the one before. Both throw InvalidArgument when shapes disagree.
// Source: SmearGate of github.com/openai/parameter-golf, PR 102 and PR 135.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// y[b,t] = (1-g) x[b,t] + g x[b,t-1], zeros before the row, g = sigmoid(gate).  x, y (B,T,D), not the same; gate (D).
void smear_forward(const Ctx& ctx, Tensor x, Tensor gate, Tensor y);
/// dx[b,t] = (1-g) dy[b,t] + g dy[b,t+1] (set; dx must not be dy), dgate += g (1-g) sum dy[b,t] (x[b,t-1] - x[b,t]).
void smear_backward(const Ctx& ctx, Tensor x, Tensor gate, Tensor dy, Tensor dx, Tensor dgate);

}  // namespace bg
