// What bench_device() times: single operations by a table of operands, and whole models.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "bench/device_bench.h"
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
/// once and may write some of `in`. Compared are all of `out` but bytes, after the first call.
struct DeviceOp {
  std::string group, what;
  std::vector<Operand> in, out;
  Body body, prepare;
  double flops = 0;
  double tolerance_bf16 = 1e-2, tolerance_f32 = 1e-4;
};
/// Every operation of a training step of byte260-jepa on B rows of T ids.
std::vector<DeviceOp> device_ops(int64_t B, int64_t T);

/// Owns operands on ctx.device.
class DeviceOperands {
 public:
  explicit DeviceOperands(Ctx ctx) : ctx_(std::move(ctx)) {}
  Tensor zeros(Shape shape, DType dtype);
  /// Normal numbers, the same ones for the same arguments; equal rows are far apart.
  Tensor normal(Shape shape, DType dtype, int64_t seed);
  Tensor ids(Shape shape, int64_t below);
  Tensor make(const Operand& operand, bool filled, int64_t seed);

 private:
  Ctx ctx_;
  std::vector<Buffer> buffers_;
};

/// Times `work` for about budget_s seconds, as bench_device() says.
std::vector<double> time_calls(const Ctx& ctx, const std::function<void()>& work, double budget_s);

/// Optimiser; forward, forward and backward; whole steps: each adds its figures.
void bench_optimiser(const Ctx& ctx, double budget_s, std::vector<DeviceFigure>& figures);
void bench_model(const Ctx& ctx, double budget_s, int64_t B, int64_t T, std::vector<DeviceFigure>& figures);
void bench_steps(const Ctx& ctx, double budget_s, int64_t B, int64_t T, std::vector<DeviceFigure>& figures);

}  // namespace bg::bench
