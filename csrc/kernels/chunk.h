// Between positions and chunks of positions: means, the causal shift by one chunk, and adding a chunk's vector back.
// C = T / chunk whole chunks; positions behind the last one belong to none.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// m[b,c] = mean of x[b,t] over the positions of chunk c.  x (B,T,D), m (B,C,D). Nothing learns through it.
void chunk_mean(const Ctx& ctx, Tensor x, int64_t chunk, Tensor m);

/// out[b,c] = z[b,c-1], and start for c = 0.  z, out (B,C,L), start (L).
void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out);
/// dz[b,c] += dout[b,c+1], dstart += sum_b dout[b,0].
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart);

/// x[b,t] += a[b,c] for the positions t of chunk c.  x (B,T,D), a (B,C,D).
void chunk_add_forward(const Ctx& ctx, Tensor a, int64_t chunk, Tensor x);
/// da[b,c] = sum of dx[b,t] over the positions of chunk c (set).
void chunk_add_backward(const Ctx& ctx, Tensor dx, int64_t chunk, Tensor da);

}  // namespace bg
