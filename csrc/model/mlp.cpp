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
  output_.reserve(plan, config_.model_dim, config_.mlp_dim());
  plan.saved(hidden_, "hidden", {dims.rows(), config_.mlp_dim()});
  plan.scratch(active_, "active", {dims.rows(), config_.mlp_dim()});
}

void Mlp::forward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor x, Tensor y) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  linear_forward(ctx, u.reshape(flat), fc_.operand, hidden_);
  activation_forward(ctx, f_, hidden_, active_);
  output_.forward(ctx, active_, proj_, scale, x.reshape(flat), y.reshape(flat), positions.decoding.prepared);
}

// f(hidden) is made again here, in the pass that goes back through f: reading it costs more memory than time.
void Mlp::backward(const Ctx& ctx, Tensor u, const Positions&, const Param& scale, Tensor dy, Tensor du) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  const Tensor dactive = active_, dhidden = hidden_;
  output_.backward_input(ctx, dy.reshape(flat), dactive);
  activation_backward(ctx, f_, hidden_, dactive, dhidden, active_);
  output_.backward_weight(ctx, active_, proj_, scale, dy.reshape(flat));
  linear_backward_weight(ctx, u.reshape(flat), dhidden, fc_.grad);
  linear_backward_input(ctx, dhidden, fc_.operand, du.reshape(flat));
}

}  // namespace bg
