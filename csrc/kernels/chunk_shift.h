// The causal shift by one chunk: what a chunk may know of the chunks before it.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// out[b,c] = z[b,c-1], and start for c = 0.  z, out (B,C,L), start (L).
void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out);
/// dz[b,c] += dout[b,c+1], dstart += sum_b dout[b,0].
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart);

}  // namespace bg
