// Losses on latents: mean squared error, and SIGReg, which pulls random projections of standardised rows towards a
// normal distribution. All throw InvalidArgument when shapes disagree.
#pragma once

#include "base/ctx.h"
#include "kernels/write.h"
#include "tensor/tensor.h"

namespace bg {

/// out (rank 0, f64) = sum of x (N) f64, contiguous, in order.
void sum_f64(const Ctx& ctx, Tensor x, Tensor out);

/// out (rank 0, f64) = mean over n of (a[n] - b[n])^2.  a, b of equal size, contiguous, not empty.
void mse_forward(const Ctx& ctx, Tensor a, Tensor b, Tensor out);
/// da = scale * weight * 2 (a - b) / n (set); b counts as a constant. weight (rank 0, f64) is in device memory, so that
/// a recorded step can be replayed with another weight.
void mse_backward(const Ctx& ctx, Tensor a, Tensor b, double scale, Tensor weight, Tensor da);

/// y[r,i] = (z[r,i] - mean_i) / max(std_i, 1e-6), std with the divisor R-1.  z, y (R,L), R >= 2; std (L) is kept.
void standardise_forward(const Ctx& ctx, Tensor z, Tensor y, Tensor std);
/// dz from dy, set or added; y and std are what forward returned.
void standardise_backward(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write);

/// Points t_k = 0.2 + 0.175 k, k < 17, at which SIGReg compares characteristic functions.
constexpr int64_t kSigregPoints = 17;
/// out (rank 0, f64) = mean over (j,k) of (mean_r cos(t_k p[r,j]) - exp(-t_k^2 / 2))^2 + (mean_r sin(t_k p[r,j]))^2.
/// p (R,P); means (2,P,17) f64 is kept.
/// Source: Balestriero and LeCun 2025, LeJEPA, arXiv:2511.08544, as simplified by github.com/openai/parameter-golf, PR
/// 832: an unweighted mean over these points in place of the weighted integral.
void sigreg_forward(const Ctx& ctx, Tensor p, Tensor means, Tensor out);
/// dp = scale * weight * derivative (set); weight as above.
void sigreg_backward(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor weight, Tensor dp);

}  // namespace bg
