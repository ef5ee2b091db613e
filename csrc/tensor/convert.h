// The same numbers in another precision: what moves between arenas and operands.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// y = x, rounded to nearest even where y holds less.  Contiguous, of equal size. CPU: float32 and float64; CUDA:
/// float32 and bfloat16.
void convert(const Ctx& ctx, Tensor x, Tensor y);

}  // namespace bg
