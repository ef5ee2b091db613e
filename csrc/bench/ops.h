// The table of single operations that bench_group() times, on any device, and the operands that it makes for them.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "bench/bench.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace bg::bench {

using Tensors = std::vector<Tensor>;
using Body = std::function<void(const Ctx&, const Tensors& in, const Tensors& out)>;

/// What an operation reads or writes. `act`: of ctx.dtype; `full`: of ctx.full_dtype(); `ids`: int32 below `below`.
struct Operand {
  enum class Kind : uint8_t { act, full, f64, ids, one, bytes } kind = Kind::act;
  Shape shape;
  int64_t below = 0;
  std::function<int64_t(const Ctx&)> size_bytes = {};  // of `bytes`
  double passes = 1;  // over its memory: 0.25 where a quarter is read, 2 where added to
};

/// An operation at some size. `in` are normal numbers (`one`: the number 1 in float64), `out` zeros. `prepare` runs
/// once and may write some of either; `in` may hold scratch. Compared are all of `out` but bytes, after the first call.
struct TimedOp {
  std::string group, what;
  std::vector<Operand> in, out;
  Body body, prepare;
  double flops = 0;
  double tolerance_bf16 = 1e-2, tolerance_cpu = 2e-5;
  std::string size;  // in words, where `what` does not say it
};
/// The operations of a training step of byte260-jepa on B rows of T ids; for the CPU also longer attention, products by
/// each library that is here, and the parts of the optimiser. `checked`: the same rows at the size at which a check in
/// float64 is affordable.
std::vector<TimedOp> ops(Device device, int64_t B, int64_t T, bool checked);

/// Owns operands on ctx.device.
class Operands {
 public:
  explicit Operands(Ctx ctx) : ctx_(std::move(ctx)) {}
  Tensor zeros(Shape shape, DType dtype);
  /// Normal numbers, the same ones for the same arguments; equal rows are far apart.
  Tensor normal(Shape shape, DType dtype, int64_t seed);
  Tensor ids(Shape shape, int64_t below);
  Tensor make(const Operand& operand, bool filled, int64_t seed);

 private:
  Ctx ctx_;
  std::vector<Buffer> buffers_;
};

/// Times `work` for about budget_s seconds, as bench_group() says.
void time_calls(const Ctx& ctx, const std::function<void()>& work, double budget_s, Figure& figure);

/// |got - want| / |want| in the 2-norm.
double relative_error(std::span<const double> got, std::span<const double> want);

}  // namespace bg::bench
