#include "kernels/chunk_shift.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(chunk_shift_forward)
BG_DECLARE_BODIES(chunk_shift_backward)

namespace bg {

void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  BG_CHECK(z.rank() == 3 && z.shape() == out.shape() && start.numel() == z.dim(2), "chunk_shift of", z.shape().str());
  BG_DISPATCH(z.device(), chunk_shift_forward(ctx, z, start, out));
}
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  BG_CHECK(dout.shape() == dz.shape() && dstart.numel() == dz.dim(2), "chunk_shift backward of", dout.shape().str());
  BG_DISPATCH(dout.device(), chunk_shift_backward(ctx, dout, dz, dstart));
}

}  // namespace bg
