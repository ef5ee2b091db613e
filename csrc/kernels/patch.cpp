#include "kernels/patch.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(patch_unfold_forward)
BG_DECLARE_BODIES(patch_unfold_backward)
BG_DECLARE_BODIES(patch_conv_forward)
BG_DECLARE_BODIES(patch_conv_backward)

namespace bg {
namespace {
void check(Tensor bytes, Tensor patches, int64_t K, int64_t width) {
  BG_CHECK(bytes.rank() == 3 && patches.rank() == 3 && bytes.dim(1) % K == 0 && patches.dim(1) == bytes.dim(1) / K &&
               patches.dim(2) == width,
           "patches of", K, "in", bytes.shape().str(), "against", patches.shape().str());
}
}  // namespace

void patch_unfold_forward(const Ctx& ctx, Tensor e, int64_t K, Tensor out) {
  check(e, out, K, e.dim(2) * K);
  BG_DISPATCH(e.device(), patch_unfold_forward(ctx, e, K, out));
}
void patch_unfold_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor de) {
  check(de, dout, K, de.dim(2) * K);
  BG_DISPATCH(de.device(), patch_unfold_backward(ctx, dout, K, de));
}
void patch_conv_forward(const Ctx& ctx, Tensor s, Tensor w, Tensor c) {
  BG_CHECK(s.rank() == 3 && s.shape() == c.shape() && w.rank() == 3 && w.dim(0) == s.dim(2), "patch_conv of",
           s.shape().str(), w.shape().str());
  BG_DISPATCH(s.device(), patch_conv_forward(ctx, s, w, c));
}
void patch_conv_backward(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw) {
  BG_CHECK(s.shape() == dc.shape() && s.shape() == ds.shape() && w.shape() == dw.shape() && ds.data() != dc.data(),
           "patch_conv backward of", s.shape().str());
  BG_DISPATCH(s.device(), patch_conv_backward(ctx, s, w, dc, ds, dw));
}

}  // namespace bg
