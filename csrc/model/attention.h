// Self-attention with grouped keys, normed and rotated queries and keys, optional window, documents and XSA. Causal, or
// over the positions from grid.first to grid.last.
#pragma once

#include "model/layer.h"
#include "model/scaled_linear.h"

namespace bg {

/// out = W_proj concat_h(softmax(q k^T / sqrt(d)) v), with q, k, v from one packed product; see kernels/attention.h.
/// Tensors: q_gain (H), c_q (Hd,D), c_k (Gd,D), c_v (Gd,D), proj (D,Hd).
class Attention final : public Layer {
 public:
  Attention(const StackSpec& stack, const LayerPlace& place)
      : stack_(stack), place_(place), window_(stack.window_of(place.index)), xsa_(stack.xsa(place.index)) {}
  std::unique_ptr<Layer> again() const override { return std::make_unique<Attention>(*this); }
  std::string scale_name() const override { return stack_.attention_name + "_scale"; }
  void declare(ParamTable& params) override;
  void reserve(Plan& plan, Dims dims) override;
  Flops flops(Dims dims) const override;
  void forward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor x, Tensor y) override;
  void backward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor dy, Tensor du,
                Write write) override;

 private:
  Tensor values_of(Tensor packed) const;
  void read(const Ctx& ctx, const Grid& grid);

  struct Weights {
    Param q_gain, c_q, c_k, c_v, proj;
  };
  const StackSpec& stack_;
  LayerPlace place_;
  int64_t window_;
  bool xsa_;
  std::shared_ptr<Weights> w_ = std::make_shared<Weights>();
  ScaledLinear output_;
  Tensor qkv_, q_, k_, rstd_, lse_, read_, mixed_;  // read: what attention returns; mixed: after XSA
  Tensor k_cache_, v_cache_;                        // decoding: (rows, G, positions, d)
  Tensor dmixed_, dread_, dq_, dk_, dqkv_, attention_scratch_;
};

}  // namespace bg
