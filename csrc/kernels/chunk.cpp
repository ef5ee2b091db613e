#include "kernels/chunk.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(chunk_mean)
BG_DECLARE_BODIES(chunk_shift_forward)
BG_DECLARE_BODIES(chunk_shift_backward)
BG_DECLARE_BODIES(chunk_add_forward)
BG_DECLARE_BODIES(chunk_add_backward)
BG_DECLARE_BODIES(chunk_step)

namespace bg {
namespace {
void check(Tensor x, int64_t chunk, Tensor m) {
  BG_CHECK(x.rank() == 3 && m.rank() == 3 && chunk > 0 && m.dim(1) == x.dim(1) / chunk && m.dim(2) == x.dim(2),
           "chunks of", chunk, "in", x.shape().str(), "against", m.shape().str());
}
}  // namespace

void chunk_mean(const Ctx& ctx, Tensor x, int64_t chunk, Tensor m) {
  check(x, chunk, m);
  BG_DISPATCH(x.device(), chunk_mean(ctx, x, chunk, m));
}
void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  BG_CHECK(z.rank() == 3 && z.shape() == out.shape() && start.numel() == z.dim(2), "chunk_shift of", z.shape().str());
  BG_DISPATCH(z.device(), chunk_shift_forward(ctx, z, start, out));
}
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  BG_CHECK(dout.shape() == dz.shape() && dstart.numel() == dz.dim(2), "chunk_shift backward of", dout.shape().str());
  BG_DISPATCH(dout.device(), chunk_shift_backward(ctx, dout, dz, dstart));
}
void chunk_add_forward(const Ctx& ctx, Tensor a, int64_t chunk, Tensor x) {
  check(x, chunk, a);
  BG_DISPATCH(x.device(), chunk_add_forward(ctx, a, chunk, x));
}
void chunk_add_backward(const Ctx& ctx, Tensor dx, int64_t chunk, Tensor da) {
  check(dx, chunk, da);
  BG_DISPATCH(dx.device(), chunk_add_backward(ctx, dx, chunk, da));
}
void chunk_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t chunk, Tensor next, Tensor sum, Tensor mean,
                Tensor added) {
  const int64_t B = x.dim(0), D = x.dim(-1);
  for (const Tensor& t : {next, sum, mean, added})
    BG_CHECK(x.rank() == 3 && t.shape() == Shape({B, D}) && t.is_contiguous(), "chunk_step of", x.shape().str(), "with",
             t.shape().str());
  BG_CHECK(chunk > 0 && x.is_contiguous() && at.numel() == B && limit.numel() == B && at.dtype() == DType::i32 &&
               limit.dtype() == DType::i32,
           "chunk_step of", x.shape().str(), "at", at.shape().str(), "up to", limit.shape().str());
  BG_DISPATCH(x.device(), chunk_step(ctx, x, at, limit, chunk, next, sum, mean, added));
}

}  // namespace bg
