// The two-layer perceptron of a block.
#pragma once

#include "model/layer.h"
#include "model/scaled_linear.h"

namespace bg {

/// out = W_proj f(W_fc u). Tensors: fc (F,D), proj (D,F).
class Mlp final : public Layer {
 public:
  Mlp(const StackSpec& stack, const LayerPlace& place) : stack_(stack), place_(place) {}
  std::unique_ptr<Layer> again() const override { return std::make_unique<Mlp>(*this); }
  std::string scale_name() const override { return "mlp_scale"; }
  void declare(ParamTable& params) override;
  void reserve(Plan& plan, Dims dims) override;
  Flops flops(Dims dims) const override { return linear_flops(dims.rows(), 2 * stack_.F * stack_.D); }
  void forward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor x, Tensor y) override;
  void backward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor dy, Tensor du,
                Write write) override;

 private:
  struct Weights {
    Param fc, proj;
  };
  const StackSpec& stack_;
  LayerPlace place_;
  std::shared_ptr<Weights> w_ = std::make_shared<Weights>();
  ScaledLinear output_;
  Tensor hidden_, active_;
};

}  // namespace bg
