// Losses on latents: mean squared error, and SIGReg, which pulls random projections of standardised rows to a normal.
#pragma once

#include "base/ctx.h"
#include "kernels/write.h"
#include "tensor/tensor.h"

namespace bg {

/// out (rank 0, f64) = sum of x (N) f64, in order.
void sum_f64(const Ctx& ctx, Tensor x, Tensor out);

/// out (rank 0, f64) = mean over n of (a[n] - b[n])^2.  a, b of equal size, contiguous.
void mse_forward(const Ctx& ctx, Tensor a, Tensor b, Tensor out);
/// da = scale * weight * 2 (a - b) / n (set); b counts as constant. weight (rank 0, f64) lies on the device, so that a
/// recorded step can be replayed with another.
void mse_backward(const Ctx& ctx, Tensor a, Tensor b, double scale, Tensor weight, Tensor da);

/// y[r,i] = (z[r,i] - mean_i) / max(std_i, 1e-6), std with the divisor R-1.  z, y (R,L), R >= 2; std (L) is kept.
void standardise_forward(const Ctx& ctx, Tensor z, Tensor y, Tensor std);
/// dz, set or added.
void standardise_backward(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write);

/// Points t_k = 0.2 + 0.175 k, k < 17, at which SIGReg compares characteristic functions.
constexpr int64_t kSigregPoints = 17;
/// out (rank 0, f64) = mean over (j,k) of (mean_r cos(t_k p[r,j]) - exp(-t_k^2 / 2))^2 + (mean_r sin(t_k p[r,j]))^2.
/// p (R,P); means (2,P,17) f64 is kept. Source: Balestriero and LeCun 2025, arXiv:2511.08544, as PR 832 simplifies it.
void sigreg_forward(const Ctx& ctx, Tensor p, Tensor means, Tensor out);
/// dp = scale * weight * derivative (set); weight as above.
void sigreg_backward(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor weight, Tensor dp);

}  // namespace bg
