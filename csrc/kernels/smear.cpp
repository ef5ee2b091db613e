#include "kernels/smear.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(smear_forward)
BG_DECLARE_BODIES(smear_backward)

namespace bg {

void smear_forward(const Ctx& ctx, Tensor x, Tensor gate, Tensor y) {
  BG_CHECK(x.rank() == 3 && x.shape() == y.shape() && gate.numel() == x.dim(2), "smear of", x.shape().str());
  BG_DISPATCH(x.device(), smear_forward(ctx, x, gate, y));
}
void smear_backward(const Ctx& ctx, Tensor x, Tensor gate, Tensor dy, Tensor dx, Tensor dgate) {
  BG_CHECK(x.shape() == dy.shape() && x.shape() == dx.shape() && dx.data() != dy.data(), "smear backward of",
           x.shape().str());
  BG_DISPATCH(x.device(), smear_backward(ctx, x, gate, dy, dx, dgate));
}

}  // namespace bg
