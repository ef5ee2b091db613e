#include "kernels/residual.h"

#include "kernels/cpu/body.h"
#include "kernels/rms_norm.h"

BG_DECLARE_BODIES(residual_mix_forward)
BG_DECLARE_BODIES(residual_mix_backward)
BG_DECLARE_BODIES(scale_rows_forward)
BG_DECLARE_BODIES(scale_rows_backward)
BG_DECLARE_BODIES(scaled_add_forward)
BG_DECLARE_BODIES(scaled_add_backward)
BG_DECLARE_BODIES(scalar_add_forward)
BG_DECLARE_BODIES(scalar_add_backward)
BG_DECLARE_BODIES(fill_zero)
BG_DECLARE_BODIES(accumulate)
BG_CUDA_DECLARE(mix_norm_forward)
BG_CUDA_DECLARE(mix_norm_backward)

namespace bg {
namespace cpu {
void mix_norm_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, double scale, double eps, Tensor mixed, Tensor u,
                      Tensor rstd) {
  residual_mix_forward(ctx, x, x0, mix, mixed);
  bg::rms_norm_forward(ctx, mixed, scale, eps, u, rstd);
}
void mix_norm_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor u, Tensor rstd, double scale, Tensor du,
                       Tensor dx, Tensor dx0, Tensor dmix) {
  bg::rms_norm_backward(ctx, u, rstd, scale, du, dx, Write::add);
  residual_mix_backward(ctx, x, x0, mix, dx, dx, dx0, dmix);
}
}  // namespace cpu

void residual_mix_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor y) {
  BG_CHECK(x.shape() == x0.shape() && x.shape() == y.shape() && mix.shape() == Shape({2, x.dim(1)}), "residual_mix of",
           x.shape().str());
  BG_DISPATCH(x.device(), residual_mix_forward(ctx, x, x0, mix, y));
}
void residual_mix_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor dy, Tensor dx, Tensor dx0,
                           Tensor dmix) {
  BG_CHECK(x.shape() == dy.shape() && x.shape() == dx.shape() && x.shape() == dx0.shape(), "residual_mix backward of",
           x.shape().str());
  BG_DISPATCH(x.device(), residual_mix_backward(ctx, x, x0, mix, dy, dx, dx0, dmix));
}
void mix_norm_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, double scale, double eps, Tensor mixed, Tensor u,
                      Tensor rstd) {
  BG_CHECK(x.rank() == 2 && x.shape() == x0.shape() && x.shape() == mixed.shape() && x.shape() == u.shape() &&
               mix.shape() == Shape({2, x.dim(1)}) && rstd.numel() == x.dim(0),
           "mix_norm of", x.shape().str());
  BG_DISPATCH(x.device(), mix_norm_forward(ctx, x, x0, mix, scale, eps, mixed, u, rstd));
}
void mix_norm_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor u, Tensor rstd, double scale, Tensor du,
                       Tensor dx, Tensor dx0, Tensor dmix) {
  BG_CHECK(x.shape() == u.shape() && x.shape() == du.shape() && x.shape() == dx.shape() && x.shape() == dx0.shape() &&
               scale != 0,
           "mix_norm backward of", x.shape().str());
  BG_DISPATCH(x.device(), mix_norm_backward(ctx, x, x0, mix, u, rstd, scale, du, dx, dx0, dmix));
}
void scale_rows_forward(const Ctx& ctx, Tensor w, Tensor scale, Tensor out) {
  BG_CHECK(w.rank() == 2 && w.shape() == out.shape() && scale.numel() == w.dim(0), "scale_rows of", w.shape().str());
  BG_DISPATCH(w.device(), scale_rows_forward(ctx, w, scale, out));
}
void scale_rows_backward(const Ctx& ctx, Tensor w, Tensor scale, Tensor dout, Tensor dw, Tensor dscale) {
  BG_CHECK(
      w.shape() == dout.shape() && w.shape() == dw.shape() && scale.numel() == w.dim(0) && dscale.numel() == w.dim(0),
      "scale_rows backward of", w.shape().str());
  BG_DISPATCH(w.device(), scale_rows_backward(ctx, w, scale, dout, dw, dscale));
}
void scaled_add_forward(const Ctx& ctx, Tensor x, Tensor a, Tensor scale, Tensor y) {
  BG_CHECK(x.shape() == a.shape() && x.shape() == y.shape() && scale.numel() == x.dim(1), "scaled_add of",
           x.shape().str());
  BG_DISPATCH(x.device(), scaled_add_forward(ctx, x, a, scale, y));
}
void scaled_add_backward(const Ctx& ctx, Tensor a, Tensor scale, Tensor dy, Tensor da, Tensor dscale) {
  BG_CHECK(a.shape() == dy.shape() && a.shape() == da.shape(), "scaled_add backward of", a.shape().str());
  BG_DISPATCH(a.device(), scaled_add_backward(ctx, a, scale, dy, da, dscale));
}
void scalar_add_forward(const Ctx& ctx, Tensor a, Tensor s, Tensor y) {
  BG_CHECK(a.shape() == y.shape() && s.numel() == 1, "scalar_add of", a.shape().str());
  BG_DISPATCH(a.device(), scalar_add_forward(ctx, a, s, y));
}
void scalar_add_backward(const Ctx& ctx, Tensor a, Tensor s, Tensor dy, Tensor da, Tensor ds) {
  BG_CHECK(a.shape() == dy.shape() && a.shape() == da.shape() && ds.numel() == 1, "scalar_add backward of",
           a.shape().str());
  BG_DISPATCH(a.device(), scalar_add_backward(ctx, a, s, dy, da, ds));
}

void fill_zero(const Ctx& ctx, Tensor y) {
  BG_CHECK(y.is_contiguous(), "fill_zero of", y.shape().str());
  BG_DISPATCH(y.device(), fill_zero(ctx, y));
}
void accumulate(const Ctx& ctx, Tensor a, Tensor y) {
  BG_CHECK(a.numel() == y.numel() && a.is_contiguous() && y.is_contiguous(), "accumulate", a.shape().str(), "into",
           y.shape().str());
  BG_DISPATCH(a.device(), accumulate(ctx, a, y));
}

}  // namespace bg
