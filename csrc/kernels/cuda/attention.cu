// Which attention kernels run: Hopper's own in bf16 with heads of 64, plain ones for every other shape and dtype.
#include "kernels/attention.h"

#include "kernels/cuda/attention_general.h"
#include "kernels/cuda/attention_hopper.h"

namespace bg::cuda {

void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor gain) {
  if (attention_hopper_serves(ctx, {q, k, v, y}))
    attention_forward_hopper(ctx, q, k, v, window, doc_start, y, lse, gain);
  else
    attention_forward_general(ctx, q, k, v, window, doc_start, y, lse);
}

void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  if (attention_hopper_serves(ctx, {q, k, v, y, dy, dq, dk, dv}))
    attention_backward_hopper(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv, scratch);
  else
    attention_backward_general(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv, scratch);
}

}  // namespace bg::cuda
