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
};
struct OpOutput {
  Shape shape;
  bool f64 = false;  // float64 whatever the context's dtype
};

/// One evaluation: tensors in the order of the case's inputs and outputs.
struct OpRun {
  Ctx ctx;
  std::vector<Tensor> in, out, dout, din;
  std::vector<Owned> kept;  // what forward leaves for backward, NaN before
  Tensor keep(Shape shape) { return keep(shape, ctx.dtype); }
  Tensor keep(Shape shape, DType dtype) {
    kept.emplace_back(dtype, shape);
    kept.back().fill(kPoison);
    return kept.back();
  }
  /// The value of dout[i] when that output is one number.
  double scale(int i) const;
};

using Lists = std::vector<std::vector<double>>;

struct OpCase {
  std::string name;
  std::vector<OpInput> inputs;
  std::vector<OpOutput> outputs;
  std::function<void(OpRun&)> forward, backward;
  std::function<Lists(const Lists&)> formula;  // the outputs, from the inputs, in float64
  double step = 1e-4;                          // of the finite differences
};

void copy(Tensor from, Tensor to);

void prove_formula(const OpCase& c);
void prove_gradients(const OpCase& c);
void prove_writes(const OpCase& c);
void prove_threads(const OpCase& c);
void prove_float32(const OpCase& c);

/// The five proofs for an op; small() and large() return vectors of cases.
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
  }

}  // namespace bg
