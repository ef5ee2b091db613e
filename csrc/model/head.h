// From the last state of the stream to logits and nats, and the latent head beside them.
#pragma once

#include "base/config.h"
#include "model/input.h"
#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// logits = cap * tanh(W r / cap).  Flat: r = rms(x), W the token table or lm_head (V,D).
/// Patches: s[t] = rms(x)[t // K] + P e[t], c = causal depthwise convolution of s inside each block of K, r = rms(c),
/// W = intra_decoder.lm_head (V,D); P = intra_decoder.proj (D,E), intra_decoder.conv (D,1,K).
class OutputStage {
 public:
  OutputStage(const Config& config, InputStage& input) : config_(config), input_(input) {}
  void declare(ParamTable& params);
  void reserve(Plan& plan, int64_t B, int64_t T);
  Flops flops(int64_t B, int64_t T) const;
  /// x (rows, D): rows = B*T/patch_size. Returns logits (B*T, V).
  Tensor forward(const Ctx& ctx, Tensor x);
  /// Nats of each target: nll (B*T) f64, after forward().
  void nll(const Ctx& ctx, Tensor targets, Tensor nll);
  /// rms(x), which the latent head reads too.
  Tensor normed() const { return normed_; }
  /// Gradient of scale * sum of nll with respect to normed(): dnormed (rows, D) is set. The logits are used up.
  void backward_logits(const Ctx& ctx, Tensor targets, double scale, Tensor dnormed);
  /// Through the norm, in place: the gradient of normed() becomes that of x.
  void backward_norm(const Ctx& ctx, Tensor dx);

 private:
  bool patched() const { return config_.patch_size > 1; }
  const Param& output() const { return config_.tie_embeddings ? input_.token_table() : lm_head_; }

  const Config& config_;
  InputStage& input_;
  Param lm_head_, byte_proj_, conv_;
  Tensor normed_, rstd_, logits_, lse_, dlogits_;
  Tensor s_, c_, r_, c_rstd_, ds_, dc_;
};

/// Published JEPA ablation of byte256: loss = mean (W rms(x)[t] - stop_gradient(tok_emb[target[t+K]]))^2 over t < T-K.
/// Training only: the artifact leaves it out. Tensor: jepa_head.proj (D,D).
class LatentHead {
 public:
  LatentHead(const Config& config, const InputStage& input) : config_(config), input_(input) {}
  void declare(ParamTable& params);
  void reserve(Plan& plan, int64_t B, int64_t T);
  Flops flops(int64_t B, int64_t T) const;
  /// Where the ids of target[b, t+K] go, (B*(T-K)) i32; filled by the model before forward.
  Tensor ahead() const { return ahead_; }
  void forward(const Ctx& ctx, Tensor normed, Tensor loss);
  /// Adds scale times the gradient of the loss to dnormed. one: the number 1 on the device, see mse_backward().
  void backward(const Ctx& ctx, Tensor normed, double scale, Tensor one, Tensor dnormed);

 private:
  const Config& config_;
  const InputStage& input_;
  Param proj_;
  Tensor ahead_, want_, guess_, dguess_;
};

}  // namespace bg
