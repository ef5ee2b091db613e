#include "kernels/latent_loss.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(sum_f64)
BG_DECLARE_BODIES(mse_forward)
BG_DECLARE_BODIES(mse_backward)
BG_DECLARE_BODIES(standardise_forward)
BG_DECLARE_BODIES(standardise_backward)
BG_DECLARE_BODIES(sigreg_forward)
BG_DECLARE_BODIES(sigreg_backward)

namespace bg {

void sum_f64(const Ctx& ctx, Tensor x, Tensor out) {
  BG_CHECK(x.is_contiguous() && out.numel() == 1, "sum of", x.shape().str());
  BG_DISPATCH(x.device(), sum_f64(ctx, x, out));
}
void mse_forward(const Ctx& ctx, Tensor a, Tensor b, Tensor out) {
  BG_CHECK(a.numel() == b.numel() && a.numel() > 0 && out.numel() == 1, "mse of", a.shape().str(), b.shape().str());
  BG_DISPATCH(a.device(), mse_forward(ctx, a, b, out));
}
void mse_backward(const Ctx& ctx, Tensor a, Tensor b, double scale, Tensor weight, Tensor da) {
  BG_CHECK(a.numel() == b.numel() && a.numel() == da.numel(), "mse backward of", a.shape().str(), b.shape().str());
  BG_DISPATCH(a.device(), mse_backward(ctx, a, b, scale, weight, da));
}
void standardise_forward(const Ctx& ctx, Tensor z, Tensor y, Tensor std) {
  BG_CHECK(z.rank() == 2 && z.dim(0) >= 2 && z.shape() == y.shape() && std.numel() == z.dim(1), "standardise of",
           z.shape().str());
  BG_DISPATCH(z.device(), standardise_forward(ctx, z, y, std));
}
void standardise_backward(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write) {
  BG_CHECK(y.shape() == dy.shape() && y.shape() == dz.shape() && std.numel() == y.dim(1), "standardise backward of",
           y.shape().str());
  BG_DISPATCH(y.device(), standardise_backward(ctx, y, std, dy, dz, write));
}
void sigreg_forward(const Ctx& ctx, Tensor p, Tensor means, Tensor out) {
  BG_CHECK(p.rank() == 2 && means.shape() == Shape({2, p.dim(1), kSigregPoints}) && out.numel() == 1, "sigreg of",
           p.shape().str());
  BG_DISPATCH(p.device(), sigreg_forward(ctx, p, means, out));
}
void sigreg_backward(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor weight, Tensor dp) {
  BG_CHECK(p.shape() == dp.shape(), "sigreg backward of", p.shape().str());
  BG_DISPATCH(p.device(), sigreg_backward(ctx, p, means, scale, weight, dp));
}

}  // namespace bg
