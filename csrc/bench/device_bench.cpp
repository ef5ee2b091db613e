#include "bench/device_bench.h"

#include <algorithm>
#include <cmath>

#include "base/device_measure.h"
#include "base/random.h"
#include "bench/device_cases.h"
#include "kernels/gemm.h"
#include "tensor/transfer.h"

namespace bg {
namespace bench {
namespace {

constexpr int kCalls = 20;
constexpr int64_t kTrainB = 12, kTrainT = 4096;
// Longer than the window of attention, two rows, whole chunks, not a multiple of a tile.
constexpr int64_t kCheckB = 2, kCheckT = 616;

// Normal numbers that all operands are cut from; drawing as many as operands hold would take longer than the timing.
constexpr int64_t kDrawn = 1 << 20, kTurn = 131071;
const std::vector<double>& drawn_numbers() {
  static const std::vector<double> numbers = [] {
    std::vector<double> made(2 * kDrawn);
    const Random random(0, "bench", 0);
    for (size_t i = 0; i < made.size(); ++i) made[i] = random.normal(i);
    return made;
  }();
  return numbers;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

DType dtype_of(const Ctx& ctx, const Operand& operand) {
  switch (operand.kind) {
    case Operand::Kind::act:
      return ctx.dtype;
    case Operand::Kind::full:
      return ctx.full_dtype();
    case Operand::Kind::f64:
    case Operand::Kind::one:
      return DType::f64;
    case Operand::Kind::ids:
      return DType::i32;
    case Operand::Kind::bytes:
      return DType::u8;
  }
  return DType::f32;
}

double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    off += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(off / std::max(size, 1e-300));
}

// One call here and one on the CPU in float64, from the same operands; the worst of all results.
double check(const Ctx& ctx, const DeviceOp& op) {
  Ctx reference;
  reference.dtype = DType::f64;
  reference.pool = ctx.pool;
  DeviceOperands here(ctx), there(reference);
  Tensors x, y, xd, yd;
  for (size_t i = 0; i < op.in.size(); ++i) {
    x.push_back(here.make(op.in[i], true, static_cast<int64_t>(i)));
    xd.push_back(there.make(op.in[i], false, 0));
    if (dtype_of(ctx, op.in[i]) == DType::i32)
      copy_bytes(ctx, xd[i].data(), Device::cpu, x[i].data(), x[i].device(), x[i].size_bytes());
    else
      upload(reference, download(ctx, x[i]), xd[i]);
  }
  for (const Operand& o : op.out) y.push_back(here.make(o, false, 0)), yd.push_back(there.make(o, false, 0));
  if (op.prepare) op.prepare(ctx, x, y), op.prepare(reference, xd, yd);
  op.body(ctx, x, y);
  op.body(reference, xd, yd);
  double worst = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    if (op.out[i].kind == Operand::Kind::bytes) continue;
    const double error = relative(download(ctx, y[i]), download(reference, yd[i]));
    worst = error <= worst ? worst : error;  // NaN stays
  }
  return worst;
}

DeviceFigure measure(const Ctx& ctx, const DeviceOp& op, double budget_s) {
  DeviceFigure f;
  f.group = op.group;
  f.what = op.what;
  f.flops = op.flops;
  f.tolerance = ctx.dtype == DType::bf16 ? op.tolerance_bf16 : op.tolerance_f32;
  DeviceOperands own(ctx);
  Tensors x, y;
  for (size_t i = 0; i < op.in.size(); ++i) x.push_back(own.make(op.in[i], true, static_cast<int64_t>(i)));
  for (const Operand& o : op.out) y.push_back(own.make(o, false, 0));
  for (size_t i = 0; i < x.size(); ++i) f.bytes += op.in[i].passes * static_cast<double>(x[i].size_bytes());
  for (size_t i = 0; i < y.size(); ++i) f.bytes += op.out[i].passes * static_cast<double>(y[i].size_bytes());
  if (op.prepare) op.prepare(ctx, x, y);
  f.seconds = time_calls(
      ctx, [&] { op.body(ctx, x, y); }, budget_s);
  return f;
}

}  // namespace

Tensor DeviceOperands::zeros(Shape shape, DType dtype) {
  const size_t size_bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  buffers_.emplace_back(std::max<size_t>(size_bytes, 16), ctx_.device);
  return Tensor(buffers_.back().data(), shape, dtype, ctx_.device);
}

Tensor DeviceOperands::normal(Shape shape, DType dtype, int64_t seed) {
  const Tensor t = zeros(shape, dtype);
  const int64_t n = t.numel(), first = std::min(n, kDrawn);
  const std::span<const double> numbers(drawn_numbers());
  const Tensor flat = t.reshape({n});
  upload(ctx_, numbers.subspan(static_cast<size_t>(seed * kTurn % kDrawn), static_cast<size_t>(first)),
         flat.slice(0, 0, first));
  for (int64_t done = first; done < n; done *= 2) {
    const int64_t more = std::min(done, n - done);
    copy_tensor(ctx_, flat.slice(0, 0, more), flat.slice(0, done, done + more));
  }
  return t;
}

Tensor DeviceOperands::ids(Shape shape, int64_t below) {
  const Tensor t = zeros(shape, DType::i32);
  std::vector<int32_t> host(static_cast<size_t>(t.numel()));
  const Random random(0, "bench ids", 0);
  for (size_t i = 0; i < host.size(); ++i)
    host[i] = static_cast<int32_t>(random.uniform(i) * static_cast<double>(below));
  copy_bytes(ctx_, t.data(), t.device(), host.data(), Device::cpu, t.size_bytes());
  return t;
}

Tensor DeviceOperands::make(const Operand& operand, bool filled, int64_t seed) {
  const DType dtype = dtype_of(ctx_, operand);
  const Shape shape = operand.kind == Operand::Kind::bytes ? Shape{operand.size_bytes(ctx_)} : operand.shape;
  if (!filled || operand.kind == Operand::Kind::bytes || operand.kind == Operand::Kind::f64) return zeros(shape, dtype);
  if (operand.kind == Operand::Kind::ids) return ids(shape, operand.below);
  if (operand.kind == Operand::Kind::act || operand.kind == Operand::Kind::full) return normal(shape, dtype, seed);
  const Tensor one = zeros(shape, dtype);
  upload(ctx_, std::vector<double>(static_cast<size_t>(one.numel()), 1.0), one);
  return one;
}

std::vector<double> time_calls(const Ctx& ctx, const std::function<void()>& work, double budget_s) {
  // The first call chooses how to multiply, the second tells how many fit.
  work();
  const double once = time_on_device(ctx, work, 1)[0];
  const int fitting = static_cast<int>(std::min(budget_s / std::max(once, 1e-7), 1000.0));
  return time_on_device(ctx, work, std::max(fitting < kCalls ? 3 : kCalls, std::min(fitting, 5 * kCalls)));
}

}  // namespace bench

DeviceRates measure_device(const Ctx& ctx, double budget_s) {
  using namespace bench;
  DeviceRates rates;
  const bool gpu = ctx.device != Device::cpu;
  {
    const int64_t n = gpu ? 8192 : 1024;
    DeviceOperands own(ctx);
    const Tensor a = own.normal({n, n}, ctx.dtype, 0), b = own.normal({n, n}, ctx.dtype, 1);
    const Tensor c = own.zeros({n, n}, ctx.dtype);
    const double flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    rates.gemm_flops = flops / median(time_calls(
                                   ctx, [&] { linear_forward(ctx, a, b, c); }, budget_s));
  }
  const size_t size_bytes = size_t{1} << (gpu ? 30 : 27);
  const Buffer from(size_bytes, ctx.device), to(size_bytes, ctx.device);
  const auto copy = [&] { copy_bytes(ctx, to.data(), ctx.device, from.data(), ctx.device, size_bytes); };
  rates.copy_bytes = 2.0 * static_cast<double>(size_bytes) / median(time_calls(ctx, copy, budget_s));
  return rates;
}

std::vector<std::string> device_bench_groups() {
  return {"gemm", "attention", "elementwise", "optimiser", "model", "step"};
}

std::vector<DeviceFigure> bench_device(const Ctx& ctx, const std::string& group, double budget_s, int64_t B,
                                       int64_t T) {
  using namespace bench;
  B = B > 0 ? B : kTrainB;
  T = T > 0 ? T : kTrainT;
  std::vector<DeviceFigure> figures;
  if (group == "optimiser")
    bench_optimiser(ctx, budget_s, figures);
  else if (group == "model")
    bench_model(ctx, budget_s, B, T, figures);
  else if (group == "step")
    bench_steps(ctx, budget_s, B, T, figures);
  else {
    const std::vector<DeviceOp> ops = device_ops(B, T), small = device_ops(kCheckB, kCheckT);
    for (size_t i = 0; i < ops.size(); ++i) {
      if (ops[i].group != group) continue;
      const double error = check(ctx, small[i]);
      figures.push_back(measure(ctx, ops[i], budget_s));
      figures.back().error = error;
      figures.back().checked_at = words("B", kCheckB, "T", kCheckT);
    }
  }
  std::string known;
  for (const std::string& name : device_bench_groups()) known += (known.empty() ? "" : ", ") + name;
  BG_CHECK(!figures.empty(), "unknown group", group, "to measure; known are", known);
  return figures;
}

}  // namespace bg
