// How long the gradient is, whether it is finite, and how clipping shortens it.
#pragma once

#include <span>

#include "base/ctx.h"
#include "tensor/params.h"

namespace bg {

/// Euclidean norm over the gradients of all parameters, summed in float64. `partial` is scratch for
/// update_blocks(params.arena_numel()) numbers. Throws NumericsError naming the first tensor, and its element, that
/// holds NaN or infinity, or the largest one when only the norm overflows.
double gradient_norm(const Ctx& ctx, const ParamTable& params, std::span<double> partial);

/// Throws that NumericsError; for gradients whose norm is known not to be finite.
[[noreturn]] void refuse_gradient(const Ctx& ctx, const ParamTable& params);

/// min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0, which means no clipping.
double clip_factor(double norm, double max_norm);

}  // namespace bg
