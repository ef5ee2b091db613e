#include "model/mlp.h"

#include "kernels/gemm.h"
#include "model/linear_init.h"

namespace bg {

void Mlp::declare(ParamTable& p) {
  const int64_t D = stack_.D, F = stack_.F;
  p.param(w_->fc, place_.prefix + "mlp.fc.weight", {F, D}, block_linear_init(stack_, F, D), Group::matrix,
          Codec::matrix);
  p.param(w_->proj, place_.prefix + "mlp.proj.weight", {D, F}, Init::zeros(), Group::matrix, Codec::matrix);
}

void Mlp::reserve(Plan& plan, Dims dims) {
  output_.reserve(plan, stack_.D, stack_.F);
  plan.saved(hidden_, "hidden", {dims.rows(), stack_.F});
  plan.scratch(active_, "active", {dims.rows(), stack_.F});
}

void Mlp::forward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor x, Tensor y) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  linear_forward(ctx, u.reshape(flat), w_->fc.operand, hidden_);
  activation_forward(ctx, stack_.activation, hidden_, active_);
  output_.forward(ctx, active_, w_->proj, scale, x.reshape(flat), y.reshape(flat), grid.decoding.prepared);
}

// f(hidden) is made again here, in the pass that goes back through f: reading it costs more memory than time.
void Mlp::backward(const Ctx& ctx, Tensor u, const Grid&, const Param& scale, Tensor dy, Tensor du, Write write) {
  const Shape flat{hidden_.dim(0), u.dim(2)};
  const Tensor dactive = active_, dhidden = hidden_;
  output_.backward_input(ctx, dy.reshape(flat), dactive);
  activation_backward(ctx, stack_.activation, hidden_, dactive, dhidden, active_);
  output_.backward_weight(ctx, active_, w_->proj, scale, dy.reshape(flat));
  linear_backward_weight(ctx, u.reshape(flat), dhidden, w_->fc.grad);
  linear_backward_input(ctx, dhidden, w_->fc.operand, du.reshape(flat), write == Write::add ? 1 : 0);
}

}  // namespace bg
