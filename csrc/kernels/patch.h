// Between bytes and static patches of K bytes. Patch j ends at byte jK: its window is jK-K+1 .. jK, zeros before the
// row. Bytes behind the last window (the last K-1 of a row) reach no patch.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// out[b,j, c*K + i] = e[b, jK-K+1+i, c].  e (B,T,E), out (B,T/K,E*K): the convolution's operand.
void patch_unfold_forward(const Ctx& ctx, Tensor e, int64_t K, Tensor out);
/// de += what belongs to each byte.
void patch_unfold_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor de);

/// out[b,j] = sum of f[b,t] over the window / K.  f (B,T,W), out (B,T/K,W).
void patch_mean_forward(const Ctx& ctx, Tensor f, int64_t K, Tensor out);
/// df (set).
void patch_mean_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor df);

/// c[b,t,:] = sum_i w[:,0,i] s[b,t-K+1+i,:] over the positions from the start of t's block of K (t // K) on.
/// s, c (B,T,D), w (D,1,K).
void patch_conv_forward(const Ctx& ctx, Tensor s, Tensor w, Tensor c);
/// ds (set, not dc), dw +=.
void patch_conv_backward(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw);

}  // namespace bg
