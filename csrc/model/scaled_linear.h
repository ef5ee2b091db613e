// The linear map a layer ends in, together with the learned scale and the sum behind it.
#pragma once

#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// y = x + scale * (h Wᵀ) = x + h (diag(scale) W)ᵀ: one product, with rows of W scaled once before it. The gradient of
/// the scaled matrix gives both others: dW = diag(scale) dS, dscale[o] = sum_k W[o,k] dS[o,k].
class ScaledLinear {
 public:
  /// W (O,K); the plan keeps diag(scale) W from forward to backward, and from step to step of decoding.
  void reserve(Plan& plan, int64_t O, int64_t K);
  /// h (N,K); x, y (N,O), y may be x. prepared: diag(scale) W is there already.
  void forward(const Ctx& ctx, Tensor h, const Param& w, const Param& scale, Tensor x, Tensor y, bool prepared);
  /// dh (N,K) = gradient of h.
  void backward_input(const Ctx& ctx, Tensor dy, Tensor dh);
  /// Adds to the gradients of w and scale.
  void backward_weight(const Ctx& ctx, Tensor h, const Param& w, const Param& scale, Tensor dy);

 private:
  Tensor scaled_, dscaled_;
};

}  // namespace bg
