// From ids to the first state of the residual stream, in each family's order.
#pragma once

#include <memory>

#include "model/bigram.h"

namespace bg {

/// byte260:  x0 = smear(rms(tok[ids] + s * bigram))
/// byte256:  x0 = smear(rms(tok[ids])) + bigram
/// patches:  x0 = smear(rms(conv(tok[ids]))) + window mean of bigram, one row per patch of patch_size bytes
/// Tensors: tok_emb (V, D or byte_embed_dim), patch_encoder (D,E,K), bigram.scale (), gate (D), and Bigram's.
class InputStage {
 public:
  explicit InputStage(const Config& config);
  void declare(ParamTable& params);
  void reserve(Plan& plan, int64_t B, int64_t T);
  Flops flops(int64_t B, int64_t T) const;
  /// ids (B,T) i32. Returns x0 (B*T/patch_size, D), kept until backward.
  Tensor forward(const Ctx& ctx, Tensor ids);
  /// dx0 is used up. Under patching, dbytes() holds what the output stage wrote there and is added to.
  void backward(const Ctx& ctx, Tensor ids, Tensor dx0);

  const Param& token_table() const { return tok_emb_; }
  /// Where the output stage adds its part of a shared table's gradient, zeroed by it; backward() adds this stage's and
  /// hands over the sum. So a micro-batch adds one number to each element, and two of them on one GPU have the bits of
  /// one on each of two. Empty unless the table is shared.
  Tensor dtable() const { return dtable_; }
  Tensor bytes() const { return bytes_; }    // (B,T,E), byte embeddings; patches only
  Tensor dbytes() const { return dbytes_; }  // their gradient

 private:
  bool patched() const { return config_.patch_size > 1; }
  // Where the norm's result lies: in the output itself when nothing comes after it.
  Tensor normed() const { return config_.smear || (bigram_ && !bigram_before_norm_) ? normed_ : out_; }
  const Config& config_;
  std::unique_ptr<Bigram> bigram_;
  bool bigram_before_norm_;
  Param tok_emb_, patch_encoder_, bigram_scale_, gate_;
  Tensor bytes_, dbytes_, unfolded_, dunfolded_;
  Tensor raw_, rstd_, normed_, out_, dnormed_, dfeatures_, dtable_;
};

}  // namespace bg
