#include "model/head.h"

#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/latent_loss.h"
#include "kernels/patch.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"
#include "kernels/segment.h"
#include "kernels/softmax_xent.h"
#include "model/family.h"

namespace bg {

void OutputStage::declare(ParamTable& p) {
  const int64_t V = config_.vocab_size(), D = config_.model_dim, E = config_.byte_embed_dim, K = config_.patch_size;
  if (patched()) {
    p.param(byte_proj_, "intra_decoder.proj.weight", {D, E}, linear_init(E), Group::scalar, Codec::other);
    p.param(conv_, "intra_decoder.conv.weight", {D, 1, K}, linear_init(K), Group::scalar, Codec::other);
  }
  if (!config_.tie_embeddings)
    p.param(lm_head_, patched() ? "intra_decoder.lm_head.weight" : "lm_head.weight", {V, D}, Init::zeros(), Group::head,
            Codec::other);
}

void OutputStage::reserve(Plan& plan, int64_t B, int64_t T) {
  const Plan::Scope scope(plan, "head");
  const int64_t V = config_.vocab_size(), D = config_.model_dim, K = config_.patch_size, N = B * T;
  plan.keep(normed_, "normed", {N / K, D});
  plan.keep(rstd_, "rstd", {N / K}, plan.full_dtype());
  plan.scratch(logits_, "logits", {N, V},
               plan.full_dtype());  // nothing uses scratch between forward and backward_logits
  plan.keep(lse_, "lse", {N}, plan.full_dtype());
  if (plan.dtype() != plan.full_dtype()) plan.backward(dlogits_, "dlogits", {N, V});
  if (patched()) {
    plan.keep(s_, "s", {B, T, D});
    plan.keep(c_, "c", {B, T, D});
    plan.keep(r_, "r", {N, D});
    plan.keep(c_rstd_, "c_rstd", {N}, plan.full_dtype());
    plan.backward(ds_, "ds", {B, T, D});
    plan.backward(dc_, "dc", {B, T, D});
  }
}

Flops OutputStage::flops(int64_t B, int64_t T) const {
  Flops flops = linear_flops(B * T, config_.vocab_size() * config_.model_dim);
  if (patched()) flops += linear_flops(B * T, config_.model_dim * (config_.byte_embed_dim + config_.patch_size));
  return flops;
}

Tensor OutputStage::forward(const Ctx& ctx, Tensor x) {
  const int64_t N = logits_.dim(0), D = config_.model_dim, K = config_.patch_size;
  const double eps = config_.norm_eps;
  rms_norm_forward(ctx, x, 1, eps, normed_, rstd_);
  Tensor r = normed_;
  if (patched()) {
    const Tensor e = input_.bytes();
    linear_forward(ctx, e.reshape({N, e.dim(2)}), byte_proj_.operand, s_.reshape({N, D}));
    segment_add_forward(ctx, normed_.reshape({e.dim(0), e.dim(1) / K, D}), Segments::equal(e.dim(1), K), s_);
    patch_conv_forward(ctx, s_, conv_.value, c_);
    rms_norm_forward(ctx, c_.reshape({N, D}), 1, eps, r_, c_rstd_);
    r = r_;
  }
  linear_forward(ctx, r, output().operand, logits_);
  softcap(ctx, config_.logit_softcap, logits_);
  return logits_;
}

void OutputStage::nll(const Ctx& ctx, Tensor targets, Tensor nll) {
  softmax_xent_forward(ctx, logits_, targets, nll, lse_);
}

void OutputStage::backward_logits(const Ctx& ctx, Tensor targets, double scale, Tensor dnormed) {
  const int64_t N = logits_.dim(0), D = config_.model_dim, K = config_.patch_size;
  const Tensor dlogits = logits_.dtype() == ctx.dtype ? logits_ : dlogits_;  // in place where it is as precise
  softmax_xent_backward(ctx, logits_, targets, lse_, config_.logit_softcap, scale, dlogits);
  const Tensor dtable = input_.dtable();
  if (dtable) fill_zero(ctx, dtable);
  linear_backward_weight(ctx, patched() ? r_ : normed_, dlogits, dtable ? dtable : output().grad);
  if (!patched()) {
    linear_backward_input(ctx, dlogits, output().operand, dnormed);
    return;
  }
  const Tensor e = input_.bytes(), de = input_.dbytes(), dc = dc_.reshape({N, D}), ds = ds_.reshape({N, D});
  linear_backward_input(ctx, dlogits, output().operand, dc);
  rms_norm_backward(ctx, r_, c_rstd_, 1, dc, dc, Write::set);
  patch_conv_backward(ctx, s_, conv_.value, dc_, ds_, conv_.grad);
  segment_add_backward(ctx, ds_, Segments::equal(e.dim(1), K), dnormed.reshape({e.dim(0), e.dim(1) / K, D}));
  linear_backward_weight(ctx, e.reshape({N, e.dim(2)}), ds, byte_proj_.grad);
  linear_backward_input(ctx, ds, byte_proj_.operand, de.reshape({N, e.dim(2)}));
}

void OutputStage::backward_norm(const Ctx& ctx, Tensor dx) {
  rms_norm_backward(ctx, normed_, rstd_, 1, dx, dx, Write::set);
}

void LatentHead::declare(ParamTable& p) {
  const int64_t D = config_.model_dim;
  p.param(proj_, "jepa_head.proj.weight", {D, D}, linear_init(D), Group::scalar, Codec::left_out, Averaging::off);
}

void LatentHead::reserve(Plan& plan, int64_t B, int64_t T) {
  if (!plan.training()) return;
  const Plan::Scope scope(plan, "latent_head");
  const int64_t D = config_.model_dim, n = B * (T - config_.jepa_pred_k);
  plan.keep(ahead_, "ahead", {n}, DType::i32);
  plan.saved(want_, "want", {n, D});
  plan.saved(guess_, "guess", {n, D});
  plan.backward(dguess_, "dguess", {n, D});
}

Flops LatentHead::flops(int64_t B, int64_t T) const {
  return linear_flops(B * std::max<int64_t>(0, T - config_.jepa_pred_k), config_.model_dim * config_.model_dim);
}

namespace {
// f(rows of normed that guess, their rows among the guesses), row of the batch by row.
template <class F>
void for_each_row(Tensor normed, Tensor guess, int64_t K, F&& f) {
  const int64_t D = normed.dim(1), B = (normed.dim(0) - guess.dim(0)) / K, T = normed.dim(0) / B;
  for (int64_t b = 0; b < B; ++b)
    f(normed.slice(0, b * T, (b + 1) * T - K),
      guess.reshape({guess.dim(0), D}).slice(0, b * (T - K), (b + 1) * (T - K)));
}
}  // namespace

void LatentHead::forward(const Ctx& ctx, Tensor normed, Tensor loss) {
  embedding_forward(ctx, ahead_, input_.token_table().value, want_);
  for_each_row(normed, guess_, config_.jepa_pred_k,
               [&](Tensor h, Tensor guess) { linear_forward(ctx, h, proj_.operand, guess); });
  mse_forward(ctx, guess_, want_, loss);
}

void LatentHead::backward(const Ctx& ctx, Tensor normed, double scale, Tensor one, Tensor dnormed) {
  mse_backward(ctx, guess_, want_, scale, one, dguess_);
  for_each_row(normed, dguess_, config_.jepa_pred_k,
               [&](Tensor h, Tensor dguess) { linear_backward_weight(ctx, h, dguess, proj_.grad); });
  for_each_row(dnormed, dguess_, config_.jepa_pred_k,
               [&](Tensor dh, Tensor dguess) { linear_backward_input(ctx, dguess, proj_.operand, dh, 1); });
}

}  // namespace bg
