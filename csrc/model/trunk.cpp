#include "model/trunk.h"

#include <cmath>

#include "base/check.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"

namespace bg {

Block::Block(const StackSpec& stack, int64_t index)
    : stack_(stack),
      prefix_(stack.prefix + std::to_string(index) + "."),
      norm_scale_(stack.ln_scale ? 1.0 / std::sqrt(static_cast<double>(index + 1)) : 1.0),
      parallel_(stack.parallel(index)) {
  for (const std::string& name : stack.layers_of(index))
    parts_.push_back({make_layer(name, stack, {index, prefix_}), {}, {}});
  w_->scales.resize(parts_.size());
}

Block::Block(const Block& first, int64_t visit)
    : stack_(first.stack_),
      visit_(visit),
      prefix_(first.prefix_),
      norm_scale_(first.norm_scale_),
      parallel_(first.parallel_),
      w_(first.w_) {
  for (const Part& part : first.parts_) parts_.push_back({part.layer->again(), {}, {}});
}

void Block::declare(ParamTable& p) {
  const int64_t D = stack_.D;
  for (size_t i = 0; i < parts_.size(); ++i)
    p.param(w_->scales[i], prefix_ + parts_[i].layer->scale_name(), {D}, Init::ones(), Group::scalar, Codec::other);
  p.param(w_->mix, prefix_ + "resid_mix", {2, D}, Init::rows(1, 0), Group::scalar, Codec::matrix);
  for (Part& part : parts_) part.layer->declare(p);
}

void Block::reserve(Plan& plan, Dims dims) {
  std::string name = prefix_.substr(0, prefix_.size() - 1);
  if (visit_ > 0) name.append("#").append(std::to_string(visit_));
  const Plan::Scope scope(plan, name);
  const int64_t N = dims.rows(), D = stack_.D;
  plan.keep(out_, "out", {N, D});
  plan.scratch(stream_, "stream", {N, D});
  plan.backward(du_, "du", {N, D});
  for (Part& part : parts_) {
    if (parallel_ && &part != &parts_.front()) break;
    const std::string of = part.layer->scale_name();
    plan.saved(part.u, (of + ".u").c_str(), {N, D});
    plan.saved(part.rstd, (of + ".rstd").c_str(), {N}, plan.full_dtype());
  }
  for (Part& part : parts_) {
    const Plan::Scope layer(plan, part.layer->scale_name());
    part.layer->reserve(plan, dims);
  }
}

Flops Block::flops(Dims dims) const {
  Flops flops;
  for (const Part& part : parts_) flops += part.layer->flops(dims);
  return flops;
}

Tensor Block::forward(const Ctx& ctx, Tensor x, Tensor x0, const Grid& grid) {
  input_ = x;
  const Shape rows3{grid.B, grid.T, stack_.D};
  const double eps = stack_.norm_eps;
  for (size_t i = 0; i < parts_.size(); ++i) {
    Part& p = parts_[i];
    if (i == 0)
      mix_norm_forward(ctx, x, x0, w_->mix.value, norm_scale_, eps, stream_, p.u, p.rstd);
    else if (!parallel_)
      rms_norm_forward(ctx, stream_, norm_scale_, eps, p.u, p.rstd);
    const Tensor u = parallel_ ? parts_.front().u : p.u, y = i + 1 == parts_.size() ? out_ : stream_;
    p.layer->forward(ctx, u.reshape(rows3), grid, w_->scales[i], stream_.reshape(rows3), y.reshape(rows3));
  }
  return out_;
}

void Block::backward(const Ctx& ctx, Tensor x0, const Grid& grid, Tensor dx, Tensor dx0) {
  const Shape rows3{grid.B, grid.T, stack_.D};
  const Part& first = parts_.front();
  for (size_t i = parts_.size(); i-- > 0;) {
    const Part& p = parts_[i];
    const Tensor u = parallel_ ? first.u : p.u;
    // Layers of a parallel block read one u: their gradients of it add up, and the stream's dx waits for the sum.
    const Write write = parallel_ && i + 1 < parts_.size() ? Write::add : Write::set;
    p.layer->backward(ctx, u.reshape(rows3), grid, w_->scales[i], dx.reshape(rows3), du_.reshape(rows3), write);
    if (i > 0 && !parallel_) rms_norm_backward(ctx, p.u, p.rstd, norm_scale_, du_, dx, Write::add);
  }
  mix_norm_backward(ctx, input_, x0, w_->mix.value, first.u, first.rstd, norm_scale_, du_, dx, dx0, w_->mix.grad);
}

Trunk::Trunk(StackSpec stack) : stack_(std::move(stack)) {
  BG_CHECK(stack_.layers >= 1 && !stack_.pattern.empty(), "a stack of", stack_.layers, "blocks");
  std::vector<int64_t> order = stack_.visits;
  if (order.empty())
    for (int64_t b = 0; b < stack_.layers; ++b) order.push_back(b);
  std::vector<size_t> first(static_cast<size_t>(stack_.layers), order.size()), times(first.size(), 0);
  for (int64_t b : order) {
    BG_CHECK(b >= 0 && b < stack_.layers, "a visit of block", b, "of", stack_.layers);
    const auto block = static_cast<size_t>(b);
    if (times[block] == 0) {
      first[block] = visits_.size();
      visits_.push_back(std::make_unique<Block>(stack_, b));
    } else {
      visits_.push_back(std::make_unique<Block>(*visits_[first[block]], static_cast<int64_t>(times[block])));
    }
    ++times[block];
    block_of_.push_back(block);
    all_.visits.push_back(all_.visits.size());
  }
  for (size_t b = 0; b < first.size(); ++b) {
    BG_CHECK(times[b] > 0, "block", b, "is never visited");
    once_.visits.push_back(first[b]);
  }
  const size_t E = all_.encoders();
  outs_.resize(E);
  joined_.resize(E);
  dskips_.resize(E);
}

void Trunk::declare_skips(ParamTable& p) {
  if (stack_.skip_name.empty()) return;
  p.param(skip_weights_, stack_.skip_name, {static_cast<int64_t>(outs_.size()), stack_.D}, Init::ones(), Group::scalar,
          Codec::other);
}
void Trunk::declare_blocks(ParamTable& p) {
  for (size_t visit : once_.visits) {
    const size_t first = p.specs().size();
    visits_[visit]->declare(p);
    tensors_.emplace_back(first, p.specs().size());
  }
}

void Trunk::reserve(Plan& plan, Dims dims) {
  const Shape rows{dims.rows(), stack_.D};
  if (!stack_.skip_name.empty())
    for (Tensor& joined : joined_) plan.keep(joined, "skip.joined", rows);
  if (plan.training()) plan.keep(dx0_, "dx0", rows);
  for (auto& visit : visits_) visit->reserve(plan, dims);
}

Flops Trunk::flops(Dims dims, bool revisit) const {
  Flops flops;
  for (size_t visit : route(revisit).visits) flops += visits_[visit]->flops(dims);
  return flops;
}

Tensor Trunk::forward(const Ctx& ctx, Tensor x0, const Grid& grid, bool revisit) {
  revisit_ = revisit;
  const Route& way = route(revisit);
  const size_t E = stack_.skip_name.empty() ? 0 : way.encoders();
  Tensor x = x0;
  for (size_t i = 0; i < way.visits.size(); ++i) {
    if (i >= E && i - E < E) {  // decoder j pops: the most recent push first
      const size_t j = i - E;
      scaled_add_forward(ctx, x, outs_[E - 1 - j], skip_weights_.value.slice(0, j, j + 1), joined_[j]);
      x = joined_[j];
    }
    x = visits_[way.visits[i]]->forward(ctx, x, x0, grid);
    if (i < E) outs_[i] = x;
  }
  return x;
}

void Trunk::backward(const Ctx& ctx, Tensor x0, const Grid& grid, Tensor dx, const GradientsReady& ready) {
  const Route& way = route(revisit_);
  const size_t E = stack_.skip_name.empty() ? 0 : way.encoders();
  std::vector<size_t> left(tensors_.size(), 0);  // of each block: visits whose backward is still to come
  for (size_t visit : way.visits) ++left[block_of_[visit]];
  fill_zero(ctx, dx0_);
  for (size_t i = way.visits.size(); i-- > 0;) {
    const size_t visit = way.visits[i], block = block_of_[visit];
    if (i < E) accumulate(ctx, dskips_[E - 1 - i], dx);
    visits_[visit]->backward(ctx, x0, grid, dx, dx0_);
    if (--left[block] == 0 && ready) ready(tensors_[block].first, tensors_[block].second);
    if (i >= E && i - E < E) {
      const size_t j = i - E;
      dskips_[j] = visits_[visit]->reusable_memory();
      scaled_add_backward(ctx, outs_[E - 1 - j], skip_weights_.value.slice(0, j, j + 1), dx, dskips_[j],
                          skip_weights_.grad.slice(0, j, j + 1));
    }
  }
  accumulate(ctx, dx0_, dx);
}

}  // namespace bg
