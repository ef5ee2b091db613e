// Point-wise non-linearities. All throw InvalidArgument when sizes disagree.
// Source of the square: So et al. 2021, Primer, arXiv:2109.08668; of the leak before it:
// github.com/openai/parameter-golf, PR 705 and PR 832. gelu: Hendrycks and Gimpel 2016, arXiv:1606.08415.
#pragma once

#include <string>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// leaky_relu2: f(x)^2 with f(x) = x for x > 0, else slope x.  relu2: the same with slope 0.  gelu: x Phi(x), by erf.
/// silu: x sigmoid(x).
struct Activation {
  enum class Kind : uint8_t { leaky_relu2, relu2, gelu, silu } kind = Kind::silu;
  double slope = 0;
  /// The kind that option `activation` names; throws InvalidArgument for any other name.
  static Activation parse(const std::string& name, double slope);
};

/// y = f(x), any shape, contiguous (else InvalidArgument); y may be x.
void activation_forward(const Ctx& ctx, Activation f, Tensor x, Tensor y);
/// dx = f'(x) dy (set); dx may be dy or x. At 0, leaky_relu2 and relu2 have slope 0. Unless y is empty it receives
/// f(x) again, which a layer then need not keep from forward; y may be dy, not x.
void activation_backward(const Ctx& ctx, Activation f, Tensor x, Tensor dy, Tensor dx, Tensor y);

}  // namespace bg
