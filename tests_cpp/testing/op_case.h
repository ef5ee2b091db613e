// One body of proof for every op with a backward: an op is described once (inputs, outputs, calls, plain formula) and
// everything that holds for all ops is proved from that row.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/write.h"
#include "testing/tensors.h"

namespace bg {

struct OpInput {
  const char* name;
  Shape shape;
  Write gradient = Write::set;  // whether backward overwrites or adds
  double scale = 1, shift = 0;  // of the random values
  bool full = false;            // of ctx.full_dtype(), as its gradient: a parameter, say; others are activations
};
/// A parameter: kept in full, its gradient adds up.
inline OpInput parameter(const char* name, Shape shape, double scale = 1, double shift = 0) {
  return {name, shape, Write::add, scale, shift, true};
}
enum class Kept : uint8_t { activation, full, f64 };  // ctx.dtype, ctx.full_dtype(), float64
struct OpOutput {
  Shape shape;
  Kept kept = Kept::activation;
};

/// One evaluation: tensors in the order of the case's inputs and outputs.
struct OpRun {
  Ctx ctx;
  DType rounded = DType::f32;  // what activations' values were rounded to
  std::vector<Tensor> in, out, dout, din;
  std::vector<Owned> kept;   // what forward leaves for backward, NaN before
  std::vector<Owned> given;  // what belongs to the case but is no input
  /// An activation, by default.
  Tensor keep(Shape shape) { return keep(shape, ctx.dtype); }
  Tensor keep_full(Shape shape) { return keep(shape, ctx.full_dtype()); }
  Tensor keep(Shape shape, DType dtype) {
    Owned t(dtype, shape);
    t.fill(kPoison);
    kept.push_back(t.to(ctx));
    return kept.back();
  }
  /// A tensor made on the CPU, where this run works.
  Tensor give(const Owned& t) {
    given.push_back(t.to(ctx));
    return given.back();
  }
  /// An activation that nothing differentiates by.
  Tensor constant(Shape shape, const std::string& name) {
    return give(Owned::normal(ctx.dtype, shape, name, 1, 0, rounded));
  }
  Tensor number(double value) {
    Owned t(DType::f64, {});
    t.set(0, value);
    return give(t);
  }
  /// The same values in another dtype, by way of the CPU.
  void convert(Tensor from, Tensor to) const;
  /// The value of dout[i] when that output is one number.
  double scale(int i) const;
};

using Lists = std::vector<std::vector<double>>;

struct OpCase {
  std::string name;
  std::vector<OpInput> inputs;
  std::vector<OpOutput> outputs;
  std::function<void(OpRun&)> forward, backward;
  /// The outputs, from the inputs, in float64. The CUDA proof does not ask for it.
  std::function<Lists(const Lists&)> formula;
  double step = 1e-4;  // of the finite differences
};

void prove_formula(const OpCase& c);
void prove_gradients(const OpCase& c);
void prove_writes(const OpCase& c);
void prove_threads(const OpCase& c);
void prove_float32(const OpCase& c);
/// CUDA in float32 and bfloat16: forward and backward agree with float64 on the CPU from equal (rounded) inputs, write
/// all that they should and nothing else, and repeat to the bit. `small`: see tolerance::kCudaSmall.
void prove_cuda(const OpCase& c, bool small = false);

/// The proofs for an op; small and large are vectors of cases.
#define BG_PROVE_OP(Op, small, large)                              \
  TEST(Op, ForwardEqualsItsFormula) {                              \
    for (const OpCase& c : small) prove_formula(c);                \
  }                                                                \
  TEST(Op, GradientsEqualFiniteDifferences) {                      \
    for (const OpCase& c : small) prove_gradients(c);              \
  }                                                                \
  TEST(Op, ParameterGradientsAddAndActivationGradientsOverwrite) { \
    for (const OpCase& c : small) prove_writes(c);                 \
  }                                                                \
  TEST(Op, BitsDependNeitherOnThreadsNorOnRepetition) {            \
    for (const OpCase& c : large) prove_threads(c);                \
  }                                                                \
  TEST(Op, Float32AgreesWithFloat64AtRealisticSizes) {             \
    for (const OpCase& c : large) prove_float32(c);                \
  }                                                                \
  TEST(Op, CudaAgreesWithFloat64) {                                \
    BG_NEEDS_GPU();                                                \
    for (const OpCase& c : small) prove_cuda(c, true);             \
    for (const OpCase& c : large) prove_cuda(c);                   \
  }
/// More cases for CUDA alone: shapes of training and odd ones, so that each path of a kernel is taken.
#define BG_PROVE_CUDA(Op, cases)                 \
  TEST(Op, CudaAgreesWithFloat64AtEveryShape) {  \
    BG_NEEDS_GPU();                              \
    for (const OpCase& c : cases) prove_cuda(c); \
  }

}  // namespace bg
