#include "kernels/xsa.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(xsa_forward)
BG_DECLARE_BODIES(xsa_backward_value)

namespace bg {

void xsa_forward(const Ctx& ctx, Tensor y, Tensor v, Tensor out) {
  BG_CHECK(
      y.rank() == 4 && v.rank() == 4 && y.shape() == out.shape() && y.dim(2) % v.dim(2) == 0 && y.dim(3) == v.dim(3),
      "xsa of", y.shape().str(), v.shape().str());
  BG_DISPATCH(y.device(), xsa_forward(ctx, y, v, out));
}
void xsa_backward_input(const Ctx& ctx, Tensor v, Tensor dout, Tensor dy) {
  BG_CHECK(dout.shape() == dy.shape() && dout.rank() == 4 && dout.dim(3) == v.dim(3), "xsa backward of",
           dout.shape().str());
  BG_DISPATCH(v.device(), xsa_forward(ctx, dout, v, dy));  // the map is linear in y and symmetric
}
void xsa_backward_value(const Ctx& ctx, Tensor y, Tensor v, Tensor dout, Tensor dv) {
  BG_CHECK(y.shape() == dout.shape() && v.shape() == dv.shape(), "xsa backward of", y.shape().str());
  BG_DISPATCH(y.device(), xsa_backward_value(ctx, y, v, dout, dv));
}

}  // namespace bg
