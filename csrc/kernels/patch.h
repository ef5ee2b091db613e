// Static patches of K bytes: the operand of a convolution over each patch, and a convolution inside each block of K
// bytes. Patch j ends at byte jK: its window is jK-K+1 .. jK, zeros before the row. Bytes after the last window (the
// last K-1 of a row) reach no patch. The mean over a window is segment_mean_forward() with
// Segments::ending_at_multiples().
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// out[b,j, c*K + i] = e[b, jK-K+1+i, c].  e (B,T,E), T a multiple of K, out (B,T/K,E*K): the convolution's operand.
void patch_unfold_forward(const Ctx& ctx, Tensor e, int64_t K, Tensor out);
/// de[b,t,c] += the element of dout that e[b,t,c] became, if any.
void patch_unfold_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor de);

/// c[b,t,:] = sum_i w[:,0,i] s[b,t-K+1+i,:] over the positions from the start of t's block of K (t // K) on.
/// s, c (B,T,D), w (D,1,K).
void patch_conv_forward(const Ctx& ctx, Tensor s, Tensor w, Tensor c);
/// Overwrites ds, which must not be dc; adds to dw.
void patch_conv_backward(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw);

}  // namespace bg
