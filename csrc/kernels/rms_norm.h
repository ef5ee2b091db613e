// Root-mean-square norm without gain.
#pragma once

#include "base/ctx.h"
#include "kernels/write.h"
#include "tensor/tensor.h"

namespace bg {

/// y[n,i] = scale * x[n,i] * r[n],  r[n] = (mean_i x[n,i]^2 + eps)^(-1/2).
/// x, y (N,D), contiguous, may be the same; rstd (N), of ctx.full_dtype(), receives r, kept for backward.
/// Throws InvalidArgument when shapes disagree. Source: Zhang and Sennrich 2019, arXiv:1910.07467.
void rms_norm_forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd);
/// From what forward returned: dx[n,i] = r * (scale * dy - y * mean_j(y dy) / scale); set or added. dx may be dy when
/// set. Throws InvalidArgument when shapes disagree or scale is 0.
void rms_norm_backward(const Ctx& ctx, Tensor y, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write);

}  // namespace bg
