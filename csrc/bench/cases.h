// One op to be timed: operands filled with normal numbers, a call, and the check of what the call left behind.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/ctx.h"
#include "base/random.h"
#include "model/model.h"
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

/// Ids of random bytes, keyed by name.
std::vector<int32_t> random_ids(const Config& config, const char* name, int64_t n);

/// Additions and multiplications of one step's matrix products. Linear maps cost 2 a weight and row forward and 4
/// backward; attention 4 d a pair and head forward and 10 d backward; Newton-Schulz as it is computed, symmetric
/// products by halves. Element-wise work and JEPA's losses (a thousandth) are left out.
struct StepFlops {
  double forward = 0, backward = 0, optimiser = 0;
};
StepFlops step_flops(const Model& model, int64_t rows, int64_t T);

/// The gradient of two rows of T ids as ctx computes it against the CPU in float64, over all parameters at once.
double gradient_error(const Config& config, const Ctx& ctx, int64_t T);

std::vector<Case> gemm_cases(const Ctx& ctx);
std::vector<Case> attention_forward_cases(const Ctx& ctx);
std::vector<Case> attention_backward_cases(const Ctx& ctx);
std::vector<Case> newton_schulz_cases(const Ctx& ctx);
std::vector<Case> adam_cases(const Ctx& ctx);
std::vector<Case> elementwise_cases(const Ctx& ctx);
std::vector<Case> step_cases(const Ctx& ctx);
std::vector<Case> generate_cases(const Ctx& ctx);

}  // namespace bg::bench
