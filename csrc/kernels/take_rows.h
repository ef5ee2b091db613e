// Rows of a matrix, picked by number on the device.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// y[n,:] = x[index[n],:], zeros where index[n] is negative.  x (M,D), y (N,D) of one float dtype, contiguous; index
/// (N) i32, below M (trusted). Throws InvalidArgument when shapes or dtypes disagree or a tensor is strided.
void take_rows(const Ctx& ctx, Tensor x, Tensor index, Tensor y);

}  // namespace bg
