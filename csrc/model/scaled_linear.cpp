#include "model/scaled_linear.h"

#include "kernels/gemm.h"
#include "kernels/residual.h"

namespace bg {

void ScaledLinear::reserve(Plan& plan, int64_t O, int64_t K) {
  if (plan.decoding())
    plan.keep(scaled_, "scaled", {O, K});
  else
    plan.saved(scaled_, "scaled", {O, K});
  plan.backward(dscaled_, "dscaled", {O, K}, plan.full_dtype());
}

void ScaledLinear::forward(const Ctx& ctx, Tensor h, const Param& w, const Param& scale, Tensor x, Tensor y,
                           bool prepared) {
  if (!prepared) scale_rows_forward(ctx, w.value, scale.value, scaled_);
  linear_forward_add(ctx, h, scaled_, x, y);
}

void ScaledLinear::backward_input(const Ctx& ctx, Tensor dy, Tensor dh) {
  linear_backward_input(ctx, dy, scaled_, dh);
}

void ScaledLinear::backward_weight(const Ctx& ctx, Tensor h, const Param& w, const Param& scale, Tensor dy) {
  linear_backward_weight(ctx, h, dy, dscaled_, 0);
  scale_rows_backward(ctx, w.value, scale.value, dscaled_, w.grad, scale.grad);
}

}  // namespace bg
