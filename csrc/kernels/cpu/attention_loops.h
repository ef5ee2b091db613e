// Attention written out as its definition: plain loops, one query at a time. Runs float64 and checks the fast kernel.
#pragma once

#include "kernels/attention.h"

namespace bg::cpu {

/// attention_forward() and attention_backward() of kernels/attention.h for T = float or double; any strides.
template <class T>
void attention_forward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                             Tensor lse);
template <class T>
void attention_backward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                              Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv);

/// attention_cached() of kernels/attention_cached.h for T = double, keys as they come; the bits of
/// attention_forward_loops().
template <class T>
void attention_cached_loops(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first,
                            int64_t window, Tensor y);

}  // namespace bg::cpu
