// One op to be timed: operands filled with normal numbers, a call, and the check of what the call left behind.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "base/random.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace bg::bench {

struct Case {
  std::string shape;
  double flops = 0, bytes = 0;
  std::function<void()> run;
  std::function<double()> error;  // after run(): relative error against the definition
  double tolerance = 0;
};

/// Owns operands for as long as the case lives.
class Operands {
 public:
  /// Normal numbers, keyed by name.
  Tensor normal(const std::string& name, Shape shape, DType dtype = DType::f32);
  /// Zeros.
  Tensor zeros(Shape shape, DType dtype = DType::f32);
  /// A float64 copy.
  Tensor doubled(Tensor x);

 private:
  std::vector<Buffer> buffers_;
};

/// |got - want| / |want| in the 2-norm; got float32 or float64, want float64; both may be strided.
double relative_error(Tensor got, Tensor want);

std::vector<Case> gemm_cases(const Ctx& ctx);
std::vector<Case> attention_forward_cases(const Ctx& ctx);
std::vector<Case> attention_backward_cases(const Ctx& ctx);
std::vector<Case> newton_schulz_cases(const Ctx& ctx);
std::vector<Case> adam_cases(const Ctx& ctx);
std::vector<Case> elementwise_cases(const Ctx& ctx);
std::vector<Case> step_cases(const Ctx& ctx);

}  // namespace bg::bench
