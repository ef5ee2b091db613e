#include "model/attention.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/attention_cached.h"
#include "kernels/gemm.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/xsa.h"
#include "model/linear_init.h"

namespace bg {

void Attention::declare(ParamTable& p) {
  const int64_t D = stack_.D, H = stack_.H, G = stack_.G, d = stack_.d;
  const std::string name = place_.prefix + stack_.attention_name + ".";
  p.param(w_->q_gain, name + "q_gain", {H}, Init::constant(stack_.q_gain_init), Group::scalar, Codec::other);
  p.param(w_->c_q, name + "c_q.weight", {H * d, D}, block_linear_init(stack_, H * d, D), Group::matrix, Codec::matrix);
  p.param(w_->c_k, name + "c_k.weight", {G * d, D}, block_linear_init(stack_, G * d, D), Group::matrix, Codec::matrix,
          Averaging::on, true);
  p.param(w_->c_v, name + "c_v.weight", {G * d, D}, block_linear_init(stack_, G * d, D), Group::matrix, Codec::matrix,
          Averaging::on, true);
  p.param(w_->proj, name + "proj.weight", {D, H * d}, Init::zeros(), Group::matrix, Codec::matrix);
}

// Of keys and queries: products with keys and with values forward, five of that size backward.
Flops Attention::flops(Dims dims) const {
  const int64_t D = stack_.D, H = stack_.H, G = stack_.G, d = stack_.d;
  Flops flops = linear_flops(dims.rows(), (H + 2 * G) * d * D + D * H * d);
  const int64_t longest = dims.cached > 0 ? dims.cached : dims.T;
  const auto W = static_cast<double>(window_ > 0 ? std::min(window_, longest) : longest);
  const double pairs = dims.cached > 0
                           ? static_cast<double>(dims.rows()) * W
                           : static_cast<double>(dims.B) * (static_cast<double>(dims.T) * W - W * (W - 1) / 2);
  flops += {4 * pairs * static_cast<double>(H * d), 10 * pairs * static_cast<double>(H * d)};
  return flops;
}

void Attention::reserve(Plan& plan, Dims dims) {
  const int64_t H = stack_.H, G = stack_.G, d = stack_.d, B = dims.B, T = dims.T;
  output_.reserve(plan, stack_.D, H * d);
  plan.saved(qkv_, "qkv", {B, T, (H + 2 * G) * d});
  plan.saved(q_, "q", {B, T, H, d});
  plan.saved(k_, "k", {B, T, G, d});
  plan.saved(rstd_, "rstd", {B, T, H + G}, plan.full_dtype());
  plan.saved(lse_, "lse", {B, H, T}, plan.full_dtype());
  plan.saved(read_, "read", {B, T, H, d});
  if (xsa_) plan.scratch(mixed_, "mixed", {B, T, H, d});
  if (plan.decoding()) {
    const int64_t S = (dims.cached + kCachePanel - 1) / kCachePanel * kCachePanel;
    plan.keep(k_cache_, "k_cache", {B * T, G, S, d});
    plan.keep(v_cache_, "v_cache", {B * T, G, S, d});
  }
  plan.backward(dmixed_, "dmixed", {B, T, H, d});
  if (xsa_) plan.backward(dread_, "dread", {B, T, H, d});
  plan.backward(dq_, "dq", {B, T, H, d});
  plan.backward(dk_, "dk", {B, T, G, d});
  plan.backward(dqkv_, "dqkv", {B, T, (H + 2 * G) * d});
  plan.backward(attention_scratch_, "attention_scratch",
                {std::max(attention_scratch_bytes(plan.device(), plan.dtype(), B, T, H, d),
                          cross_attention_scratch_bytes(plan.device(), B, T, H))},
                DType::u8);
}

Tensor Attention::values_of(Tensor packed) const {
  const int64_t H = stack_.H, G = stack_.G, d = stack_.d;
  return packed.slice(2, (H + G) * d, (H + 2 * G) * d).split_last(d);
}

// read_ from q_, k_ and the values, and from the cache in a step of decoding.
void Attention::read(const Ctx& ctx, const Grid& grid) {
  const Decoding& decoding = grid.decoding;
  if (decoding.kind == Decoding::Kind::step) {
    const int64_t rows = q_.dim(1), H = q_.dim(2), G = k_.dim(2), d = q_.dim(3);
    cache_append(ctx, k_.reshape({rows, 1, G, d}), values_of(qkv_.reshape({rows, 1, qkv_.dim(2)})), decoding.at,
                 k_cache_, v_cache_);
    attention_cached(ctx, q_.reshape({rows, H, d}), k_cache_, v_cache_, decoding.at, decoding.first, window_,
                     read_.reshape({rows, H, d}));
    return;
  }
  const Tensor v = values_of(qkv_);
  if (grid.last) {
    BG_CHECK(window_ == 0, "attention of block", place_.index, "has a window of", window_,
             "positions, and a grid that says which ones are seen");
    BG_CHECK(decoding.kind == Decoding::Kind::none, "decoding takes causal attention, not a grid with `last`");
    cross_attention_forward(ctx, q_, k_, v, {grid.first, grid.last}, read_, lse_);
    return;
  }
  attention_forward(ctx, q_, k_, v, window_, grid.first, read_, lse_, w_->q_gain.value);
  if (decoding.kind == Decoding::Kind::fill) {
    const int64_t row = decoding.row;
    cache_append(ctx, k_.slice(1, 0, decoding.length), v.slice(1, 0, decoding.length), decoding.at,
                 k_cache_.slice(0, row, row + 1), v_cache_.slice(0, row, row + 1));
  }
}

void Attention::forward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor x, Tensor y) {
  const int64_t N = u.dim(0) * u.dim(1), D = u.dim(2), Hd = q_.dim(2) * q_.dim(3);
  linear_forward(ctx, u.reshape({N, D}), stacked({w_->c_q.operand, w_->c_k.operand, w_->c_v.operand}),
                 qkv_.reshape({N, qkv_.dim(2)}));
  qk_norm_rope_forward(ctx, qkv_, w_->q_gain.value, grid.rope, stack_.norm_eps, q_, k_, rstd_);
  read(ctx, grid);
  if (xsa_) xsa_forward(ctx, read_, values_of(qkv_), mixed_);
  const Tensor out = xsa_ ? mixed_ : read_;
  output_.forward(ctx, out.reshape({N, Hd}), w_->proj, scale, x.reshape({N, D}), y.reshape({N, D}),
                  grid.decoding.prepared);
}

void Attention::backward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor dy, Tensor du,
                         Write write) {
  const int64_t N = u.dim(0) * u.dim(1), D = u.dim(2), Hd = q_.dim(2) * q_.dim(3), W = qkv_.dim(2);
  const Tensor out = xsa_ ? mixed_ : read_;
  if (xsa_) xsa_forward(ctx, read_, values_of(qkv_), mixed_);  // again: keeping it costs more memory than time
  output_.backward_weight(ctx, out.reshape({N, Hd}), w_->proj, scale, dy.reshape({N, D}));
  output_.backward_input(ctx, dy.reshape({N, D}), dmixed_.reshape({N, Hd}));
  const Tensor v = values_of(qkv_), dv = values_of(dqkv_);
  if (xsa_) xsa_backward_input(ctx, v, dmixed_, dread_);
  const Tensor dread = xsa_ ? dread_ : dmixed_;
  if (!grid.last)
    attention_backward(ctx, q_, k_, v, window_, grid.first, read_, lse_, dread, dq_, dk_, dv, attention_scratch_);
  else
    cross_attention_backward(ctx, q_, k_, v, {grid.first, grid.last}, read_, lse_, dread, dq_, dk_, dv,
                             attention_scratch_);
  if (xsa_) xsa_backward_value(ctx, read_, v, dmixed_, dv);  // attention has overwritten dv: this adds
  qk_norm_rope_backward(ctx, qkv_, w_->q_gain.value, grid.rope, rstd_, dq_, dk_, dqkv_, w_->q_gain.grad);
  const Tensor dqkv = dqkv_.reshape({N, W});
  linear_backward_weight(ctx, u.reshape({N, D}), dqkv, stacked({w_->c_q.grad, w_->c_k.grad, w_->c_v.grad}));
  linear_backward_input(ctx, dqkv, stacked({w_->c_q.operand, w_->c_k.operand, w_->c_v.operand}), du.reshape({N, D}),
                        write == Write::add ? 1 : 0);
}

}  // namespace bg
