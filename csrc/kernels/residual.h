// How the residual stream is mixed and added to. All throw InvalidArgument when shapes disagree.
// The mix with the first state x0 and the skips from encoder to decoder blocks (U-Net; scaled_add with a learned scale
// per channel) come from github.com/KellerJordan/modded-nanogpt, whose U-Net is that of Ronneberger et al. 2015,
// arXiv:1505.04597; the form here is that of github.com/openai/parameter-golf, PR 832.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// y[n,i] = mix[0,i] * x[n,i] + mix[1,i] * x0[n,i].  x, x0, y (N,D); mix (2,D).
void residual_mix_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor y);
/// dx = mix[0] dy (set, may be dy), dx0 += mix[1] dy, dmix += (sum_n dy x, sum_n dy x0).
void residual_mix_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor dy, Tensor dx, Tensor dx0,
                           Tensor dmix);

/// The mix above, and its norm in the same pass: mixed = mix[0] x + mix[1] x0, u = scale * mixed * rstd as
/// rms_norm_forward() has it. mixed, u (N,D), rstd (N); mixed may be x.
void mix_norm_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, double scale, double eps, Tensor mixed, Tensor u,
                      Tensor rstd);
/// dx holds the gradient that reaches `mixed` past u. With g = dx + norm backward of du: dx = mix[0] g (set), dx0 +=
/// mix[1] g, dmix += (sum_n g x, sum_n g x0). scale must not be 0.
void mix_norm_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor u, Tensor rstd, double scale, Tensor du,
                       Tensor dx, Tensor dx0, Tensor dmix);

/// out[o,k] = scale[o] * w[o,k].  w (O,K) and scale (O) of ctx.full_dtype(); out (O,K) of either dtype. A linear layer
/// whose output is scaled and added to a stream is one product with these rows: y = x + h out^T.
void scale_rows_forward(const Ctx& ctx, Tensor w, Tensor scale, Tensor out);
/// dw += scale[o] * dout, dscale[o] += sum_k w dout.
void scale_rows_backward(const Ctx& ctx, Tensor w, Tensor scale, Tensor dout, Tensor dw, Tensor dscale);

/// y[n,i] = x[n,i] + scale[i] * a[n,i].  x, a, y (N,D), y may be x; scale (D).
void scaled_add_forward(const Ctx& ctx, Tensor x, Tensor a, Tensor scale, Tensor y);
/// da = scale dy (set), dscale += sum_n dy a. The gradient of x is dy itself.
void scaled_add_backward(const Ctx& ctx, Tensor a, Tensor scale, Tensor dy, Tensor da, Tensor dscale);

/// y[n,i] += s * a[n,i] with a single learned scalar s (rank 0).
void scalar_add_forward(const Ctx& ctx, Tensor a, Tensor s, Tensor y);
/// da = s dy (set), ds += sum dy a.
void scalar_add_backward(const Ctx& ctx, Tensor a, Tensor s, Tensor dy, Tensor da, Tensor ds);

/// y = 0, contiguous.
void fill_zero(const Ctx& ctx, Tensor y);
/// y += a, any shape, contiguous.
void accumulate(const Ctx& ctx, Tensor a, Tensor y);

}  // namespace bg
