// Attention on the CPU: float64 by plain loops.
#include "kernels/attention.h"

#include "kernels/cpu/attention_loops.h"

namespace bg::cpu {

void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse) {
  BG_FLOATS(q.dtype(), T, attention_forward_loops<T>(ctx, q, k, v, window, doc_start, y, lse));
}

void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor) {
  BG_FLOATS(q.dtype(), T, attention_backward_loops<T>(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv));
}

}  // namespace bg::cpu
