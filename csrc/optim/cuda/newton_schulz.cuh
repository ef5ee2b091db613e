// Newton-Schulz on the GPU for many matrices of one shape at once.
#pragma once

#include "optim/newton_schulz.h"

namespace bg::cuda {

/// `steps` iterations on x (n, rows, cols), whose matrices are normalised already; `other` is shaped like x, a and s
/// (n, m, m) with m = min(rows, cols). Returns x or other: where the result is. Sums in float32, results in the
/// tensors' dtype. A matrix has the same bits in any part of `planned` matrices.
Tensor newton_schulz_iterate(const Ctx& ctx, int64_t steps, Tensor x, Tensor other, Tensor a, Tensor s,
                             int64_t planned);

}  // namespace bg::cuda
