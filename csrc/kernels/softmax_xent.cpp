#include "kernels/softmax_xent.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(softcap)
BG_DECLARE_BODIES(softmax_xent_forward)
BG_DECLARE_BODIES(softmax_xent_backward)

namespace bg {

void softcap(const Ctx& ctx, double cap, Tensor x) {
  BG_CHECK(cap >= 0 && x.is_contiguous(), "softcap of", x.shape().str(), "by", cap);
  BG_DISPATCH(x.device(), softcap(ctx, cap, x));
}
void softmax_xent_forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  BG_CHECK(logits.rank() == 2 && targets.numel() == logits.dim(0) && nll.numel() == logits.dim(0) &&
               lse.numel() == logits.dim(0),
           "softmax_xent of", logits.shape().str(), targets.shape().str());
  BG_DISPATCH(logits.device(), softmax_xent_forward(ctx, logits, targets, nll, lse));
}
void softmax_xent_backward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor lse, double cap, double scale,
                           Tensor dlogits) {
  BG_CHECK(logits.rank() == 2 && targets.numel() == logits.dim(0) && lse.numel() == logits.dim(0) &&
               dlogits.shape() == logits.shape(),
           "softmax_xent backward of", logits.shape().str());
  BG_DISPATCH(logits.device(), softmax_xent_backward(ctx, logits, targets, lse, cap, scale, dlogits));
}

}  // namespace bg
