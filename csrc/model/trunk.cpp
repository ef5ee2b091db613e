#include "model/trunk.h"

#include <cmath>

#include "kernels/residual.h"
#include "kernels/rms_norm.h"

namespace bg {

Block::Block(const Config& config, int64_t index)
    : config_(config),
      prefix_("blocks." + std::to_string(index) + "."),
      norm_scale_(config.ln_scale ? 1.0 / std::sqrt(static_cast<double>(index + 1)) : 1.0) {
  const LayerPlace place{index, config.window_of_layer(index), index >= config.num_layers - config.xsa_last_n, prefix_};
  for (const std::string& name : config.block_layers()) parts_.push_back({make_layer(name, config, place), {}, {}, {}});
}

void Block::declare(ParamTable& p) {
  const int64_t D = config_.model_dim;
  for (Part& part : parts_)
    p.param(part.scale, prefix_ + part.layer->scale_name(), {D}, Init::ones(), Group::scalar, Codec::other);
  p.param(mix_, prefix_ + "resid_mix", {2, D}, Init::rows(1, 0), Group::scalar, Codec::matrix);
  for (Part& part : parts_) part.layer->declare(p);
}

void Block::reserve(Plan& plan, Dims dims) {
  const Plan::Scope scope(plan, prefix_.substr(0, prefix_.size() - 1));
  const int64_t N = dims.rows(), D = config_.model_dim;
  plan.keep(out_, "out", {N, D});
  plan.scratch(stream_, "stream", {N, D});
  plan.backward(du_, "du", {N, D});
  for (Part& part : parts_) {
    const std::string name = part.layer->scale_name();
    plan.saved(part.u, (name + ".u").c_str(), {N, D});
    plan.saved(part.rstd, (name + ".rstd").c_str(), {N}, plan.full_dtype());
  }
  for (Part& part : parts_) {
    const Plan::Scope layer(plan, part.layer->scale_name());
    part.layer->reserve(plan, dims);
  }
}

Tensor Block::forward(const Ctx& ctx, Tensor x, Tensor x0, const Positions& positions) {
  input_ = x;
  const Shape rows3{x.dim(0) / positions.rope.dim(0), positions.rope.dim(0), x.dim(1)};
  const double eps = config_.norm_eps;
  for (Part& p : parts_) {
    if (&p == &parts_.front())
      mix_norm_forward(ctx, x, x0, mix_.value, norm_scale_, eps, stream_, p.u, p.rstd);
    else
      rms_norm_forward(ctx, stream_, norm_scale_, eps, p.u, p.rstd);
    const Tensor y = &p == &parts_.back() ? out_ : stream_;
    p.layer->forward(ctx, p.u.reshape(rows3), positions, p.scale, stream_.reshape(rows3), y.reshape(rows3));
  }
  return out_;
}

void Block::backward(const Ctx& ctx, Tensor x0, const Positions& positions, Tensor dx, Tensor dx0) {
  const Shape rows3{dx.dim(0) / positions.rope.dim(0), positions.rope.dim(0), dx.dim(1)};
  for (auto p = parts_.rbegin(); p != parts_.rend(); ++p) {
    p->layer->backward(ctx, p->u.reshape(rows3), positions, p->scale, dx.reshape(rows3), du_.reshape(rows3));
    if (&*p == &parts_.front())
      mix_norm_backward(ctx, input_, x0, mix_.value, p->u, p->rstd, norm_scale_, du_, dx, dx0, mix_.grad);
    else
      rms_norm_backward(ctx, p->u, p->rstd, norm_scale_, du_, dx, Write::add);
  }
}

Trunk::Trunk(const Config& config) : config_(config) {
  for (int64_t i = 0; i < config.num_layers; ++i) blocks_.push_back(std::make_unique<Block>(config, i));
  const size_t E = blocks_.size() / 2;
  outs_.resize(E);
  joined_.resize(E);
  dskips_.resize(E);
}

void Trunk::declare_skips(ParamTable& p) {
  p.param(skip_weights_, "skip_weights", {static_cast<int64_t>(outs_.size()), config_.model_dim}, Init::ones(),
          Group::scalar, Codec::other);
}
void Trunk::declare_blocks(ParamTable& p) {
  for (auto& block : blocks_) {
    const size_t first = p.specs().size();
    block->declare(p);
    tensors_.emplace_back(first, p.specs().size());
  }
}

void Trunk::reserve(Plan& plan, Dims dims) {
  const Shape rows{dims.rows(), config_.model_dim};
  for (size_t j = 0; j < outs_.size(); ++j) {
    plan.keep(joined_[j], "skip.joined", rows);
  }
  if (plan.training()) plan.keep(dx0_, "dx0", rows);
  for (auto& block : blocks_) block->reserve(plan, dims);
}

Tensor Trunk::forward(const Ctx& ctx, Tensor x0, const Positions& positions) {
  const size_t E = outs_.size();
  Tensor x = x0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (i >= E && i - E < E) {  // decoder j pops: the most recent push first
      const size_t j = i - E;
      scaled_add_forward(ctx, x, outs_[E - 1 - j], skip_weights_.value.slice(0, j, j + 1), joined_[j]);
      x = joined_[j];
    }
    x = blocks_[i]->forward(ctx, x, x0, positions);
    if (i < E) outs_[i] = x;
  }
  return x;
}

void Trunk::backward(const Ctx& ctx, Tensor x0, const Positions& positions, Tensor dx, const GradientsReady& ready) {
  const size_t E = outs_.size();
  fill_zero(ctx, dx0_);
  for (size_t i = blocks_.size(); i-- > 0;) {
    if (i < E) accumulate(ctx, dskips_[E - 1 - i], dx);
    blocks_[i]->backward(ctx, x0, positions, dx, dx0_);
    if (ready) ready(tensors_[i].first, tensors_[i].second);
    if (i >= E && i - E < E) {
      const size_t j = i - E;
      dskips_[j] = blocks_[i]->spent();
      scaled_add_backward(ctx, outs_[E - 1 - j], skip_weights_.value.slice(0, j, j + 1), dx, dskips_[j],
                          skip_weights_.grad.slice(0, j, j + 1));
    }
  }
  accumulate(ctx, dx0_, dx);
}

}  // namespace bg
