#include "model/input.h"

#include "kernels/gemm.h"
#include "kernels/patch.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"
#include "kernels/smear.h"
#include "model/family.h"

namespace bg {

InputStage::InputStage(const Config& config)
    : config_(config),
      bigram_(config.bigram_vocab_size > 0 ? std::make_unique<Bigram>(config) : nullptr),
      bigram_before_norm_(config.family == "byte260") {}

void InputStage::declare(ParamTable& p) {
  const int64_t V = config_.vocab_size(), D = config_.model_dim, E = config_.byte_embed_dim, K = config_.patch_size;
  const double std = config_.tie_embeddings ? 0.005 : 1.0;
  p.param(tok_emb_, "tok_emb.weight", {V, patched() ? E : D}, Init::normal(std), Group::table, Codec::other);
  if (patched())
    p.param(patch_encoder_, "patch_encoder.weight", {D, E, K}, linear_init(E * K), Group::scalar, Codec::other);
  const std::string gate = names_of(config_).smear_gate;
  if (config_.smear && !bigram_before_norm_) p.param(gate_, gate, {D}, Init::zeros(), Group::scalar, Codec::other);
  if (bigram_ && bigram_before_norm_)
    p.param(bigram_scale_, std::string(names_of(config_).bigram) + ".scale", {}, Init::constant(0.05), Group::scalar,
            Codec::other);
  if (bigram_) bigram_->declare(p);
  if (config_.smear && bigram_before_norm_) p.param(gate_, gate, {D}, Init::zeros(), Group::scalar, Codec::other);
}

void InputStage::reserve(Plan& plan, int64_t B, int64_t T) {
  const Plan::Scope scope(plan, "input");
  const int64_t D = config_.model_dim, E = config_.byte_embed_dim, K = config_.patch_size, N = B * (T / K);
  if (patched()) {
    plan.keep(bytes_, "bytes", {B, T, E});
    if (plan.training()) plan.keep(dbytes_, "dbytes", {B, T, E});
    plan.keep(unfolded_, "unfolded", {N, E * K});
    plan.backward(dunfolded_, "dunfolded", {N, E * K});
  }
  if (config_.tie_embeddings && !patched() && plan.training())
    plan.keep(dtable_, "dtable", {config_.vocab_size(), D}, plan.full_dtype());
  plan.scratch(raw_, "raw", {N, D});
  plan.keep(rstd_, "rstd", {N}, plan.full_dtype());
  plan.keep(normed_, "normed", {B, T / K, D});
  plan.keep(out_, "out", {B, T / K, D});
  plan.backward(dnormed_, "dnormed", {B, T / K, D});
  plan.backward(dfeatures_, "dfeatures", {N, D});
  if (bigram_) bigram_->reserve(plan, B, T);
}

Flops InputStage::flops(int64_t B, int64_t T) const {
  Flops flops;
  if (patched()) flops += linear_flops(B * T, config_.byte_embed_dim * config_.model_dim);
  if (bigram_) flops += bigram_->flops(B, T);
  return flops;
}

Tensor InputStage::forward(const Ctx& ctx, Tensor ids) {
  const int64_t K = config_.patch_size, N = raw_.dim(0), D = config_.model_dim, E = config_.byte_embed_dim;
  if (patched()) {
    embedding_forward(ctx, ids, tok_emb_.value, bytes_.reshape({N * K, E}));
    patch_unfold_forward(ctx, bytes_, K, unfolded_.reshape({ids.dim(0), ids.dim(1) / K, E * K}));
    linear_forward(ctx, unfolded_, patch_encoder_.operand.reshape({D, E * K}), raw_);
  } else {
    embedding_forward(ctx, ids, tok_emb_.value, raw_);
  }
  const Tensor features = bigram_ ? bigram_->forward(ctx, ids) : Tensor();
  if (bigram_ && bigram_before_norm_) scalar_add_forward(ctx, features, bigram_scale_.value, raw_);
  rms_norm_forward(ctx, raw_, 1.0, config_.norm_eps, normed().reshape({N, D}), rstd_);
  if (config_.smear)
    smear_forward(ctx, normed_, gate_.value, out_);
  else if (normed().data() != out_.data())
    copy_tensor(ctx, normed_, out_);
  if (bigram_ && !bigram_before_norm_) accumulate(ctx, features, out_);
  return out_.reshape({N, D});
}

void InputStage::backward(const Ctx& ctx, Tensor ids, Tensor dx0) {
  const int64_t K = config_.patch_size, N = raw_.dim(0), D = config_.model_dim, E = config_.byte_embed_dim;
  if (bigram_ && !bigram_before_norm_) bigram_->backward(ctx, dx0);
  Tensor d = dx0;
  if (config_.smear) {
    smear_backward(ctx, normed_, gate_.value, dx0.reshape(normed_.shape()), dnormed_, gate_.grad);
    d = dnormed_.reshape({N, D});
  }
  rms_norm_backward(ctx, normed().reshape({N, D}), rstd_, 1.0, d, d, Write::set);
  if (bigram_ && bigram_before_norm_) {
    scalar_add_backward(ctx, bigram_->project(ctx), bigram_scale_.value, d, dfeatures_, bigram_scale_.grad);
    bigram_->backward(ctx, dfeatures_);
  }
  if (patched()) {
    linear_backward_weight(ctx, unfolded_, d, patch_encoder_.grad.reshape({D, E * K}));
    linear_backward_input(ctx, d, patch_encoder_.operand.reshape({D, E * K}), dunfolded_);
    patch_unfold_backward(ctx, dunfolded_.reshape({ids.dim(0), ids.dim(1) / K, E * K}), K, dbytes_);
    embedding_backward(ctx, ids, dbytes_.reshape({N * K, E}), tok_emb_.grad);
  } else if (dtable_) {
    embedding_backward(ctx, ids, d, dtable_);
    accumulate(ctx, dtable_, tok_emb_.grad);
  } else {
    embedding_backward(ctx, ids, d, tok_emb_.grad);
  }
}

}  // namespace bg
