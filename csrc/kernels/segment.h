// Between positions and runs of positions (kernels/segments.h): means over runs, a run's vector added to its
// positions, and the first position of each run.
#pragma once

#include "base/ctx.h"
#include "kernels/segments.h"
#include "tensor/tensor.h"

namespace bg {

// Positions x (B,T,D) and runs (B,P,D) are contiguous and of one dtype: CPU float32 or float64, CUDA float32 or
// bfloat16, sums in float32. A run's positions are always added in their order, so that equal calls give equal bits.
// Throws InvalidArgument when shapes, dtypes or devices disagree with each other or with the segments; on the CPU also
// when listed runs are not as kernels/segments.h says. CUDA does not read them on the host and trusts the caller.

/// m[b,p] = sum of x[b,t] over run p / n.  Listed runs: n positions, and 0 for an empty run. Equal runs: n = K, as if
/// zeros stood before the row; without a lead the sum is multiplied by the rounded 1 / K.
void segment_mean_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor m);
/// dx[b,t] = dm[b,p] / n for the run p of t, 0 for a position without a run. Overwrites dx.
void segment_mean_backward(const Ctx& ctx, Tensor dm, const Segments& runs, Tensor dx);

/// x[b,t] += a[b,p] for the run p of t; a position without a run stays as it is.
void segment_add_forward(const Ctx& ctx, Tensor a, const Segments& runs, Tensor x);
/// da[b,p] = sum of dx[b,t] over run p, 0 for an empty run. Overwrites da; dx is the gradient of x before the sum, too.
void segment_add_backward(const Ctx& ctx, Tensor dx, const Segments& runs, Tensor da);

/// first[b,p] = x[b,t] for the first position t of run p in the row, 0 for an empty run.
void segment_pick_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor first);
/// dx[b,t] += dfirst[b,p] for the first position t of run p.
void segment_pick_backward(const Ctx& ctx, Tensor dfirst, const Segments& runs, Tensor dx);

/// Means and sums over equal runs of K without a lead, n positions at a time, for rows that grow: t = at[b] + i, i < n,
/// in order; a row with at[b] < 0 is left alone.
///   t opens a run:    added[b] = next[b], sum[b] = x[b,i];  otherwise  sum[b] += x[b,i]
///   t closes a run:   mean[b] = sum[b] / K
///   t < limit[b]:     x[b,i] += added[b], after it has been summed
/// x (B,n,D); at, limit (B) i32; next, mean, added (B,D) like x, next may be added; sum (B,D) of ctx.full_dtype().
/// On the CPU mean has the bits of segment_mean_forward().
void segment_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t K, Tensor next, Tensor sum, Tensor mean,
                  Tensor added);

}  // namespace bg
