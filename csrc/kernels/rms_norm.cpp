#include "kernels/rms_norm.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(rms_norm_forward)
BG_DECLARE_BODIES(rms_norm_backward)

namespace bg {

void rms_norm_forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd) {
  BG_CHECK(x.rank() == 2 && y.shape() == x.shape() && rstd.numel() == x.dim(0), "rms_norm of", x.shape().str(), "to",
           y.shape().str(), rstd.shape().str());
  BG_DISPATCH(x.device(), rms_norm_forward(ctx, x, scale, eps, y, rstd));
}

void rms_norm_backward(const Ctx& ctx, Tensor y, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write) {
  BG_CHECK(dy.shape() == y.shape() && dx.shape() == y.shape(), "rms_norm backward of", y.shape().str(),
           dy.shape().str());
  BG_CHECK(scale != 0, "rms_norm backward: scale is 0");
  BG_DISPATCH(y.device(), rms_norm_backward(ctx, y, rstd, scale, dy, dx, write));
}

}  // namespace bg
