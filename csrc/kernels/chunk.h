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

/// The same, n positions at a time, for rows that grow: t = at[b] + i, i < n, in order; a row with at[b] < 0 rests.
///   t opens a chunk:   added[b] = next[b], sum[b] = x[b,i];  otherwise  sum[b] += x[b,i]
///   t closes a chunk:  mean[b] = sum[b] / chunk
///   t < limit[b]:      x[b,i] += added[b], after it has been summed
/// x (B,n,D); at, limit (B) i32; next, mean, added (B,D) like x, next may be added; sum (B,D) of ctx.full_dtype().
/// On the CPU mean has the bits of chunk_mean().
void chunk_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t chunk, Tensor next, Tensor sum, Tensor mean,
                Tensor added);

}  // namespace bg
