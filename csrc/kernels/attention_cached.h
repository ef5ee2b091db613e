// Attention of one new position a row over the keys and values that earlier positions left behind.
#pragma once

#include <cstdint>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// What the length of a cache must be a multiple of.
inline constexpr int64_t kCachePanel = 32;

/// k_cache[b,g,at[b]+i] = k[b,i,g], and the same for v, i < n; a row with at[b] < 0 stays as it is.
/// k, v (B,n,G,d), may be strided, the last dimension contiguous; caches (B,G,S,d), contiguous, S a multiple of
/// kCachePanel; at (B) i32, at most S-n. How elements lie inside one head's keys is the body's own: float32 on the CPU
/// keeps each kCachePanel keys transposed, (d, kCachePanel), so that a step reads them as vectors over keys.
void cache_append(const Ctx& ctx, Tensor k, Tensor v, Tensor at, Tensor k_cache, Tensor v_cache);

/// y[b,h] = sum_s p[s] v_cache[b,g,s],  p = softmax over s of q[b,h] . k_cache[b,g,s] / sqrt(d),  g = h / (H/G),
/// over the keys max(first[b], at[b] - window + 1 if window) <= s <= at[b]; zeros for a row with at[b] < 0.
/// q, y (B,H,d), contiguous; caches (B,G,S,d), contiguous, H a multiple of G; at, first (B) i32, first[b] <= at[b] < S.
/// window: positions, 0 = all. CPU: float32 or float64; CUDA: float32 or bfloat16, d at most 256, sums in float32.
/// On the CPU y has the bits that attention_forward() gives position at[b], whatever B and S are. Throws
/// InvalidArgument when shapes, strides, dtypes or devices disagree, on the CPU also when at or first are out of range.
void attention_cached(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first, int64_t window,
                      Tensor y);

namespace cpu {
void cache_append(const Ctx& ctx, Tensor k, Tensor v, Tensor at, Tensor k_cache, Tensor v_cache);
void attention_cached(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first, int64_t window,
                      Tensor y);
}  // namespace cpu
}  // namespace bg
BG_CUDA_DECLARE(cache_append)
BG_CUDA_DECLARE(attention_cached)
