#include "model/mlp.h"

#include "kernels/gemm.h"
#include "model/family.h"

namespace bg {

void Mlp::declare(ParamTable& p) {
  const int64_t D = config_.model_dim, F = config_.mlp_dim();
  p.param(fc_, place_.prefix + "mlp.fc.weight", {F, D}, block_linear_init(config_, F, D), Group::matrix, Codec::matrix);
  p.param(proj_, place_.prefix + "mlp.proj.weight", {D, F}, Init::zeros(), Group::matrix, Codec::matrix);
}

void Mlp::reserve(Plan& plan, Dims dims) {
  plan.saved(hidden_, "hidden", {dims.rows(), config_.mlp_dim()});
  plan.saved(active_, "active", {dims.rows(), config_.mlp_dim()});
  plan.backward(dhidden_, "dhidden", {dims.rows(), config_.mlp_dim()});
}

void Mlp::forward(const Ctx& ctx, Tensor u, const Positions&, Tensor y) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  linear_forward(ctx, u.reshape(flat), fc_.value, hidden_);
  activation_forward(ctx, f_, hidden_, active_);
  linear_forward(ctx, active_, proj_.value, y.reshape(flat));
}

void Mlp::backward(const Ctx& ctx, Tensor u, const Positions&, Tensor dy, Tensor du) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  linear_backward_weight(ctx, active_, dy.reshape(flat), proj_.grad);
  linear_backward_input(ctx, dy.reshape(flat), proj_.value, dhidden_);
  activation_backward(ctx, f_, hidden_, dhidden_, dhidden_);
  linear_backward_weight(ctx, u.reshape(flat), dhidden_, fc_.grad);
  linear_backward_input(ctx, dhidden_, fc_.value, du.reshape(flat));
}

}  // namespace bg
