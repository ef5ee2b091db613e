// How Muon makes a matrix nearly orthogonal: the quintic Newton-Schulz iteration, products only.
//
//   X = G / (|G|_F + 1e-7);  `steps` times:  A = X X^T (of the shorter side),
//   X <- 3.4445 X + (-4.7750 A + 2.0315 A^2) X
// All singular values of the result lie near 1. A tall G (rows > columns) is read with A = X^T X instead, which is the
// same on the transpose. A and A^2 are symmetric: only tiles on and above the diagonal are computed.
// Source: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon); the factor sqrt(max(1, rows / cols)) is that of
// its code, github.com/KellerJordan/Muon: with it the rows of O have a mean square norm near 1 in tall matrices too.
#pragma once

#include <cstdint>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// The polynomial of one iteration: X <- (kNewtonSchulzA I + kNewtonSchulzB A + kNewtonSchulzC A^2) X.
inline constexpr double kNewtonSchulzA = 3.4445, kNewtonSchulzB = -4.7750, kNewtonSchulzC = 2.0315;
/// Added to the norm that G is divided by.
inline constexpr double kNewtonSchulzEps = 1e-7;

/// Elements of scratch that newton_schulz() needs for a (rows, cols) matrix: X and two square matrices.
int64_t newton_schulz_scratch(int64_t rows, int64_t cols);

/// out = NS_steps(g). g and out (R, C) contiguous, float32 or float64, on CUDA float32 or bfloat16; out may be g
/// itself. `scratch` is a vector of that dtype with newton_schulz_scratch(R, C) elements or more. Bits depend neither
/// on the number of threads nor on which thread calls. Throws InvalidArgument when shapes or dtypes disagree.
void newton_schulz(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out);

namespace cpu {
void newton_schulz(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out);
}  // namespace cpu
}  // namespace bg
BG_CUDA_DECLARE(newton_schulz)
