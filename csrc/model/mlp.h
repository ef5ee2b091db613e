// The two-layer perceptron of a block.
#pragma once

#include "kernels/activation.h"
#include "model/layer.h"
#include "model/scaled_linear.h"

namespace bg {

/// out = W_proj f(W_fc u). Tensors: fc (F,D), proj (D,F).
class Mlp final : public Layer {
 public:
  Mlp(const Config& config, const LayerPlace& place)
      : config_(config), place_(place), f_(Activation::parse(config.activation, config.activation_slope)) {}
  std::string scale_name() const override { return "mlp_scale"; }
  void declare(ParamTable& params) override;
  void reserve(Plan& plan, Dims dims) override;
  void forward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor x, Tensor y) override;
  void backward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor dy,
                Tensor du) override;

 private:
  const Config& config_;
  LayerPlace place_;
  Activation f_;
  Param fc_, proj_;
  ScaledLinear output_;
  Tensor hidden_, active_;
};

}  // namespace bg
