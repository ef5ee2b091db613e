#include "kernels/activation.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(activation_forward)
BG_DECLARE_BODIES(activation_backward)

namespace bg {

Activation Activation::parse(const std::string& name, double slope) {
  if (name == "leaky_relu2") return {Kind::leaky_relu2, slope};
  if (name == "relu2") return {Kind::relu2, 0};
  if (name == "gelu") return {Kind::gelu, 0};
  BG_CHECK(name == "silu", "unknown activation", name);
  return {Kind::silu, 0};
}

void activation_forward(const Ctx& ctx, Activation f, Tensor x, Tensor y) {
  BG_CHECK(x.numel() == y.numel() && x.is_contiguous() && y.is_contiguous(), "activation of", x.shape().str());
  BG_DISPATCH(x.device(), activation_forward(ctx, f, x, y));
}
void activation_backward(const Ctx& ctx, Activation f, Tensor x, Tensor dy, Tensor dx, Tensor y) {
  BG_CHECK(x.numel() == dy.numel() && x.numel() == dx.numel() && (!y || x.numel() == y.numel()),
           "activation backward of", x.shape().str());
  BG_DISPATCH(x.device(), activation_backward(ctx, f, x, dy, dx, y));
}

}  // namespace bg
