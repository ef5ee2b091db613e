// Softmax attention with grouped keys (GQA). Causal, with a window and document boundaries: what each position reads
// from the positions before it. Between two sequences: what each query reads from a range of keys of its own.
#pragma once

#include <cstdint>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// y[b,t,h] = sum_s p[s] v[b,s,g],  p = softmax over s of q[b,t,h] . k[b,s,g] / sqrt(d),  g = h / (H/G),
/// over the keys max(doc_start[b,t], t - window + 1 if window) <= s <= t.
/// q, y (B, T, H, d); k, v (B, T, G, d), H a multiple of G; lse (B, H, T) contiguous: natural logarithm of the sum of
/// exponentials, kept for backward, float32 when the others are bfloat16. CPU: float32 or float64; CUDA: float32 or
/// bfloat16. q, k, v, y may be strided views, the last dimension contiguous. window: positions, 0 = all. doc_start:
/// (B, T) int32 contiguous, 0 <= doc_start[b,t] <= t, not decreasing along t, or empty. Its values are checked on the
/// CPU; CUDA trusts them, and gradients are wrong where they decrease. gain: (H), of lse's dtype, or empty; when given
/// it promises |q[b,t,h]| <= |gain[h]| sqrt(d) and |k[b,s,g]| <= sqrt(d) up to rounding, as normed queries and keys
/// have it: scores are then bounded, and a body may do without their running maximum.
///
/// A position's result does not depend, to the last bit, on T, on later positions or on the rest of the batch; time is
/// proportional to the window, memory to T. Scratch: thread-local, grown once: copies of k and v on the calling thread.
/// Throws InvalidArgument when shapes, strides, dtypes, devices or doc_start are not as above.
/// Source of the blocked softmax: Dao 2023, arXiv:2307.08691.
void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor gain = {});

/// Gradients of the above: dq (B, T, H, d), dk, dv (B, T, G, d) are overwritten. y, lse as forward left them; dy like
/// y. scratch: attention_scratch_bytes() bytes of uint8, aligned to 4; its contents do not matter before or after.
/// Other scratch: thread-local, grown once, proportional to T * d on each worker.
void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);

/// Bytes of scratch that attention_backward needs.
int64_t attention_scratch_bytes(Device device, DType dtype, int64_t B, int64_t T, int64_t H, int64_t d);

/// For each query, the first and the last key that it may see: (B, Tq) int32 contiguous, any values in any order. Both
/// empty: every query sees all keys.
struct KeyRange {
  Tensor first, last;
};

/// y[b,t,h] = sum_s p[s] v[b,s,g],  p = softmax over s of q[b,t,h] . k[b,s,g] / sqrt(d),  g = h / (H/G),
/// over the keys max(first[b,t], 0) <= s <= min(last[b,t], Tk - 1). A query without keys gets y = 0 and lse =
/// -infinity. q, y (B, Tq, H, d); k, v (B, Tk, G, d); lse (B, H, Tq); otherwise as attention_forward(), whose numbers
/// this gives where ranges describe its keys: to the last bit in float64 on the CPU. Time: the CPU takes one query
/// after the other, in proportion to the keys seen; CUDA takes tiles of 32 or 64 queries from the smallest first to the
/// largest last of a tile, so that ranges should not jump about.
void cross_attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse);

/// Gradients of the above: dq (B, Tq, H, d), dk, dv (B, Tk, G, d) are overwritten; those of a query without keys and of
/// a key that no query sees are 0. y, lse as forward left them; dy like y. scratch: cross_attention_scratch_bytes()
/// bytes, aligned to 4; its contents do not matter before or after.
void cross_attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse,
                              Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);

/// Bytes of scratch that cross_attention_backward needs.
int64_t cross_attention_scratch_bytes(Device device, int64_t B, int64_t Tq, int64_t H);

namespace cpu {
void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor gain);
void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);
void cross_attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse);
void cross_attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse,
                              Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch);
}  // namespace cpu
}  // namespace bg
BG_CUDA_DECLARE(attention_forward)
BG_CUDA_DECLARE(attention_backward)
BG_CUDA_DECLARE(cross_attention_forward)
BG_CUDA_DECLARE(cross_attention_backward)
