// From ids to rows of a table, and what else follows from ids alone. All throw InvalidArgument when shapes disagree.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

enum class BigramHash : uint8_t { xor_, product };

/// y[n,:] = table[ids[n],:].  ids (N) i32, already checked to lie in the table; table (V,D); y (N,D).
void embedding_forward(const Ctx& ctx, Tensor ids, Tensor table, Tensor y);
/// dtable[ids[n],:] += dy[n,:], added in order of n.
void embedding_backward(const Ctx& ctx, Tensor ids, Tensor dy, Tensor dtable);

/// Bucket of (ids[b,t-1], ids[b,t]), in int32 arithmetic.  xor: t = 0 gives buckets-1, else ((36313 id) xor (27191
/// before)) mod (buckets-1).  product: (256 before + id) mod buckets, with 0 before the row.  ids, out (B,T) i32.
/// Throws InvalidArgument also for fewer than 2 buckets.
/// Source: github.com/openai/parameter-golf, PR 135 (the idea), PR 832 (xor), PR 705 (product).
void bigram_hash(const Ctx& ctx, Tensor ids, BigramHash kind, int64_t buckets, Tensor out);

/// out[b,t] = position of the last bos at or before t, 0 when there is none.  ids, out (B,T) i32.
void document_starts(const Ctx& ctx, Tensor ids, int32_t bos, Tensor out);

}  // namespace bg
