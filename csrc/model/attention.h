// Causal self-attention with grouped keys, normed and rotated queries and keys, optional window, documents and XSA.
#pragma once

#include "model/layer.h"
#include "model/scaled_linear.h"

namespace bg {

/// out = W_proj concat_h(softmax(q k^T / sqrt(d)) v), with q, k, v from one packed product; see kernels/attention.h.
/// Tensors: q_gain (H), c_q (Hd,D), c_k (Gd,D), c_v (Gd,D), proj (D,Hd).
class Attention final : public Layer {
 public:
  Attention(const Config& config, const LayerPlace& place) : config_(config), place_(place) {}
  std::string scale_name() const override;
  void declare(ParamTable& params) override;
  void reserve(Plan& plan, Dims dims) override;
  void forward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor x, Tensor y) override;
  void backward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor dy,
                Tensor du) override;

 private:
  Tensor values_of(Tensor packed) const;
  void read(const Ctx& ctx, const Positions& positions);

  const Config& config_;
  LayerPlace place_;
  Param q_gain_, c_q_, c_k_, c_v_, proj_;
  ScaledLinear output_;
  Tensor qkv_, q_, k_, rstd_, lse_, read_, mixed_;  // read: what attention returns; mixed: after XSA
  Tensor k_cache_, v_cache_;                        // decoding: (rows, G, positions, d)
  Tensor dmixed_, dread_, dq_, dk_, dqkv_, attention_scratch_;
};

}  // namespace bg
