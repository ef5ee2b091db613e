#include "model/attention.h"

#include "kernels/attention.h"
#include "kernels/attention_cached.h"
#include "kernels/gemm.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/xsa.h"
#include "model/family.h"

namespace bg {

std::string Attention::scale_name() const {
  return std::string(names_of(config_).attention) + "_scale";
}

void Attention::declare(ParamTable& p) {
  const int64_t D = config_.model_dim, H = config_.num_heads, G = config_.num_kv_heads, d = config_.head_dim();
  const std::string name = place_.prefix + names_of(config_).attention + ".";
  p.param(q_gain_, name + "q_gain", {H}, Init::constant(config_.q_gain_init), Group::scalar, Codec::other);
  p.param(c_q_, name + "c_q.weight", {H * d, D}, block_linear_init(config_, H * d, D), Group::matrix, Codec::matrix);
  p.param(c_k_, name + "c_k.weight", {G * d, D}, block_linear_init(config_, G * d, D), Group::matrix, Codec::matrix,
          Averaging::on, true);
  p.param(c_v_, name + "c_v.weight", {G * d, D}, block_linear_init(config_, G * d, D), Group::matrix, Codec::matrix,
          Averaging::on, true);
  p.param(proj_, name + "proj.weight", {D, H * d}, Init::zeros(), Group::matrix, Codec::matrix);
}

void Attention::reserve(Plan& plan, Dims dims) {
  const int64_t H = config_.num_heads, G = config_.num_kv_heads, d = config_.head_dim(), B = dims.B, T = dims.T;
  output_.reserve(plan, config_.model_dim, H * d);
  plan.saved(qkv_, "qkv", {B, T, (H + 2 * G) * d});
  plan.saved(q_, "q", {B, T, H, d});
  plan.saved(k_, "k", {B, T, G, d});
  plan.saved(rstd_, "rstd", {B, T, H + G}, plan.full_dtype());
  plan.saved(lse_, "lse", {B, H, T}, plan.full_dtype());
  plan.saved(read_, "read", {B, T, H, d});
  if (place_.xsa) plan.scratch(mixed_, "mixed", {B, T, H, d});
  if (plan.decoding()) {
    const int64_t S = (dims.cached + kCachePanel - 1) / kCachePanel * kCachePanel;
    plan.keep(k_cache_, "k_cache", {B * T, G, S, d});
    plan.keep(v_cache_, "v_cache", {B * T, G, S, d});
  }
  plan.backward(dmixed_, "dmixed", {B, T, H, d});
  if (place_.xsa) plan.backward(dread_, "dread", {B, T, H, d});
  plan.backward(dq_, "dq", {B, T, H, d});
  plan.backward(dk_, "dk", {B, T, G, d});
  plan.backward(dqkv_, "dqkv", {B, T, (H + 2 * G) * d});
  plan.backward(attention_scratch_, "attention_scratch",
                {attention_scratch_bytes(plan.device(), plan.dtype(), B, T, H, d)}, DType::u8);
}

Tensor Attention::values_of(Tensor packed) const {
  const int64_t H = config_.num_heads, G = config_.num_kv_heads, d = config_.head_dim();
  return packed.slice(2, (H + G) * d, (H + 2 * G) * d).split_last(d);
}

// read_ from q_, k_ and the values, and from the cache in a step of decoding.
void Attention::read(const Ctx& ctx, const Positions& positions) {
  const Decoding& decoding = positions.decoding;
  if (decoding.kind == Decoding::Kind::step) {
    const int64_t rows = q_.dim(1), H = q_.dim(2), G = k_.dim(2), d = q_.dim(3);
    cache_append(ctx, k_.reshape({rows, 1, G, d}), values_of(qkv_.reshape({rows, 1, qkv_.dim(2)})), decoding.at,
                 k_cache_, v_cache_);
    attention_cached(ctx, q_.reshape({rows, H, d}), k_cache_, v_cache_, decoding.at, decoding.first, place_.window,
                     read_.reshape({rows, H, d}));
    return;
  }
  const Tensor v = values_of(qkv_);
  attention_forward(ctx, q_, k_, v, place_.window, positions.doc_start, read_, lse_, q_gain_.value);
  if (decoding.kind == Decoding::Kind::fill) {
    const int64_t row = decoding.row;
    cache_append(ctx, k_.slice(1, 0, decoding.length), v.slice(1, 0, decoding.length), decoding.at,
                 k_cache_.slice(0, row, row + 1), v_cache_.slice(0, row, row + 1));
  }
}

void Attention::forward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor x, Tensor y) {
  const int64_t N = u.dim(0) * u.dim(1), D = u.dim(2), Hd = q_.dim(2) * q_.dim(3);
  linear_forward(ctx, u.reshape({N, D}), stacked({c_q_.operand, c_k_.operand, c_v_.operand}),
                 qkv_.reshape({N, qkv_.dim(2)}));
  qk_norm_rope_forward(ctx, qkv_, q_gain_.value, positions.rope, config_.norm_eps, q_, k_, rstd_);
  read(ctx, positions);
  if (place_.xsa) xsa_forward(ctx, read_, values_of(qkv_), mixed_);
  const Tensor out = place_.xsa ? mixed_ : read_;
  output_.forward(ctx, out.reshape({N, Hd}), proj_, scale, x.reshape({N, D}), y.reshape({N, D}),
                  positions.decoding.prepared);
}

void Attention::backward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor dy,
                         Tensor du) {
  const int64_t N = u.dim(0) * u.dim(1), D = u.dim(2), Hd = q_.dim(2) * q_.dim(3), W = qkv_.dim(2);
  const Tensor out = place_.xsa ? mixed_ : read_;
  if (place_.xsa) xsa_forward(ctx, read_, values_of(qkv_), mixed_);  // again: keeping it costs more memory than time
  output_.backward_weight(ctx, out.reshape({N, Hd}), proj_, scale, dy.reshape({N, D}));
  output_.backward_input(ctx, dy.reshape({N, D}), dmixed_.reshape({N, Hd}));
  const Tensor v = values_of(qkv_), dv = values_of(dqkv_);
  if (place_.xsa) xsa_backward_input(ctx, v, dmixed_, dread_);
  const Tensor dread = place_.xsa ? dread_ : dmixed_;
  attention_backward(ctx, q_, k_, v, place_.window, positions.doc_start, read_, lse_, dread, dq_, dk_, dv,
                     attention_scratch_);
  if (place_.xsa) xsa_backward_value(ctx, read_, v, dmixed_, dv);  // attention has overwritten dv: this adds
  qk_norm_rope_backward(ctx, qkv_, q_gain_.value, positions.rope, rstd_, dq_, dk_, dqkv_, q_gain_.grad);
  const Tensor dqkv = dqkv_.reshape({N, W});
  linear_backward_weight(ctx, u.reshape({N, D}), dqkv, stacked({c_q_.grad, c_k_.grad, c_v_.grad}));
  linear_backward_input(ctx, dqkv, stacked({c_q_.operand, c_k_.operand, c_v_.operand}), du.reshape({N, D}));
}

}  // namespace bg
