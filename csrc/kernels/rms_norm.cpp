#include "kernels/rms_norm.h"

#include "kernels/cpu/body.h"

BG_CPU_DECLARE(rms_norm_forward)
BG_CPU_DECLARE(rms_norm_backward)

namespace bg {

void rms_norm_forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd) {
  BG_CHECK(x.rank() == 2 && y.shape() == x.shape() && rstd.numel() == x.dim(0), "rms_norm of", x.shape().str(), "to",
           y.shape().str(), rstd.shape().str());
  BG_DISPATCH(x.device(), rms_norm_forward(ctx, x, scale, eps, y, rstd));
}

void rms_norm_backward(const Ctx& ctx, Tensor x, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write) {
  BG_CHECK(dy.shape() == x.shape() && dx.shape() == x.shape(), "rms_norm backward of", x.shape().str(),
           dy.shape().str());
  BG_DISPATCH(x.device(), rms_norm_backward(ctx, x, rstd, scale, dy, dx, write));
}

}  // namespace bg
