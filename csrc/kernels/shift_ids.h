// Ids further ahead in each row.
#pragma once

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// out[b,t] = ids[b,t+K] for t < T-K.  ids (B,T) i32, out (B*(T-K)) i32. Throws InvalidArgument unless
/// 0 <= K < T and the sizes agree.
void shift_ids(const Ctx& ctx, Tensor ids, int64_t K, Tensor out);

}  // namespace bg
