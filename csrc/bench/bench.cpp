#include "bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>

#include "base/device_measure.h"
#include "base/random.h"
#include "bench/cases.h"
#include "bench/ops.h"
#include "kernels/gemm.h"
#include "tensor/transfer.h"

namespace bg {
namespace bench {
namespace {

constexpr int kCalls = 20;
// What is checked for a GPU: longer than the window of attention, two rows, whole chunks, not a multiple of a tile.
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

double best(const std::vector<double>& seconds) {
  return *std::min_element(seconds.begin(), seconds.end());
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

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_s() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// One call here and one on the CPU in float64, from the same operands; the worst of all results.
double check(const Ctx& ctx, const TimedOp& op) {
  Ctx reference;
  reference.dtype = DType::f64;
  reference.pool = ctx.pool;
  Operands here(ctx), there(reference);
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
    const double error = relative_error(download(ctx, y[i]), download(reference, yd[i]));
    worst = error <= worst ? worst : error;  // NaN stays
  }
  return worst;
}

Figure measure(const Ctx& ctx, const TimedOp& op, double budget_s) {
  Figure f;
  f.group = op.group;
  f.what = op.what;
  f.flops = op.flops;
  const double tolerance_f32 = ctx.device == Device::cpu ? op.tolerance_cpu : 2e-4;
  f.tolerance = ctx.dtype == DType::bf16 ? op.tolerance_bf16 : tolerance_f32;
  Operands own(ctx);
  Tensors x, y;
  for (size_t i = 0; i < op.in.size(); ++i) x.push_back(own.make(op.in[i], true, static_cast<int64_t>(i)));
  for (const Operand& o : op.out) y.push_back(own.make(o, false, 0));
  for (size_t i = 0; i < x.size(); ++i) f.bytes += op.in[i].passes * static_cast<double>(x[i].size_bytes());
  for (size_t i = 0; i < y.size(); ++i) f.bytes += op.out[i].passes * static_cast<double>(y[i].size_bytes());
  if (op.prepare) op.prepare(ctx, x, y);
  time_calls(
      ctx, [&] { op.body(ctx, x, y); }, budget_s, f);
  return f;
}

// The rows of ops() that are of the group. On the CPU they are checked at the size that is timed.
std::vector<Figure> bench_ops(const Ctx& ctx, const std::string& group, double budget_s, int64_t B, int64_t T) {
  const bool gpu = ctx.device != Device::cpu;
  const auto of_group = [&group](std::vector<TimedOp> table) {
    std::erase_if(table, [&group](const TimedOp& op) { return op.group != group; });
    return table;
  };
  const std::vector<TimedOp> timed = of_group(ops(ctx.device, B, T, false));
  const std::vector<TimedOp> checked = of_group(ops(ctx.device, gpu ? kCheckB : B, gpu ? kCheckT : T, true));
  std::vector<Figure> figures;
  for (size_t i = 0; i < timed.size(); ++i) {
    const double error = check(ctx, checked[i]);
    figures.push_back(measure(ctx, timed[i], gpu ? budget_s : budget_s / static_cast<double>(timed.size())));
    figures.back().error = error;
    figures.back().checked_at = checked[i].size;
  }
  return figures;
}

struct Entry {
  const char* name;
  bool cpu, gpu;
  std::vector<Figure> (*figures)(const Ctx&, double budget_s, int64_t B, int64_t T) = nullptr;  // null: rows of ops()
};
constexpr Entry kGroups[] = {
    {"gemm", true, true},
    {"attention", true, true},
    {"elementwise", true, true},
    {"newton_schulz", true, false},
    {"adam", true, false},
    {"optimiser", false, true, bench_optimiser},
    {"model", false, true, bench_model},
    {"step", true, true, bench_steps},
    {"generate", true, false, bench_generate},
};

}  // namespace

Tensor Operands::zeros(Shape shape, DType dtype) {
  const size_t size_bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
  buffers_.emplace_back(std::max<size_t>(size_bytes, 16), ctx_.device);
  return Tensor(buffers_.back().data(), shape, dtype, ctx_.device);
}

Tensor Operands::normal(Shape shape, DType dtype, int64_t seed) {
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

Tensor Operands::ids(Shape shape, int64_t below) {
  const Tensor t = zeros(shape, DType::i32);
  std::vector<int32_t> host(static_cast<size_t>(t.numel()));
  const Random random(0, "bench ids", 0);
  for (size_t i = 0; i < host.size(); ++i)
    host[i] = static_cast<int32_t>(random.uniform(i) * static_cast<double>(below));
  copy_bytes(ctx_, t.data(), t.device(), host.data(), Device::cpu, t.size_bytes());
  return t;
}

Tensor Operands::make(const Operand& operand, bool filled, int64_t seed) {
  const DType dtype = dtype_of(ctx_, operand);
  const Shape shape = operand.kind == Operand::Kind::bytes ? Shape{operand.size_bytes(ctx_)} : operand.shape;
  if (!filled || operand.kind == Operand::Kind::bytes || operand.kind == Operand::Kind::f64) return zeros(shape, dtype);
  if (operand.kind == Operand::Kind::ids) return ids(shape, operand.below);
  if (operand.kind == Operand::Kind::act || operand.kind == Operand::Kind::full) return normal(shape, dtype, seed);
  const Tensor one = zeros(shape, dtype);
  upload(ctx_, std::vector<double>(static_cast<size_t>(one.numel()), 1.0), one);
  return one;
}

double relative_error(std::span<const double> got, std::span<const double> want) {
  BG_CHECK(got.size() == want.size(), "compared are", got.size(), "and", want.size(), "numbers");
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    off += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(off / std::max(size, 1e-300));
}

void time_calls(const Ctx& ctx, const std::function<void()>& work, double budget_s, Figure& figure) {
  figure.seconds.clear();
  figure.cpu_seconds.clear();
  work();  // chooses how to multiply, loads what is loaded once
  if (ctx.device != Device::cpu) {
    const double once = time_on_device(ctx, work, 1)[0];
    const int fitting = static_cast<int>(std::min(budget_s / std::max(once, 1e-7), 1000.0));
    figure.seconds = time_on_device(ctx, work, std::max(fitting < kCalls ? 3 : kCalls, std::min(fitting, 5 * kCalls)));
    return;
  }
  for (double spent = 0; spent < budget_s || figure.seconds.size() < 3;) {
    const double start = now_s(), cpu_start = cpu_s();
    work();
    figure.seconds.push_back(now_s() - start);
    figure.cpu_seconds.push_back(cpu_s() - cpu_start);
    spent += figure.seconds.back();
  }
}

}  // namespace bench

Rates measure_rates(const Ctx& ctx, double budget_s) {
  const bool gpu = ctx.device != Device::cpu;
  Rates rates;
  Figure product, copying;
  {
    const int64_t M = gpu ? 8192 : 2048, N = gpu ? 8192 : 512, K = N;
    bench::Operands own(ctx);
    const Tensor a = own.normal({M, K}, ctx.dtype, 0), b = own.normal({N, K}, ctx.dtype, 1);
    const Tensor c = own.zeros({M, N}, ctx.dtype);
    const double flops = 2.0 * static_cast<double>(M) * static_cast<double>(N) * static_cast<double>(K);
    bench::time_calls(
        ctx, [&] { linear_forward(ctx, a, b, c); }, budget_s, product);
    rates.gemm_flops = flops / (gpu ? bench::median(product.seconds) : bench::best(product.seconds));
    if (!gpu) rates.gemm_flops_cpu = flops / bench::best(product.cpu_seconds);
  }
  const size_t size_bytes = size_t{1} << (gpu ? 30 : 27);
  constexpr size_t kPiece = size_t{1} << 20;
  const Buffer from(size_bytes, ctx.device), to(size_bytes, ctx.device);
  const auto copy = [&] {
    if (gpu) return copy_bytes(ctx, to.data(), ctx.device, from.data(), ctx.device, size_bytes);
    ctx.pool->parallel_for(static_cast<int64_t>(size_bytes / kPiece), [&](int64_t i) {
      const size_t at = static_cast<size_t>(i) * kPiece;
      std::memcpy(to.at(at), from.at(at), kPiece);
    });
  };
  bench::time_calls(ctx, copy, budget_s, copying);
  rates.copy_bytes =
      2.0 * static_cast<double>(size_bytes) / (gpu ? bench::median(copying.seconds) : bench::best(copying.seconds));
  return rates;
}

std::vector<std::string> bench_groups(Device device) {
  std::vector<std::string> names;
  for (const bench::Entry& g : bench::kGroups)
    if (device == Device::cpu ? g.cpu : g.gpu) names.push_back(g.name);
  return names;
}

std::vector<Figure> bench_group(const Ctx& ctx, const std::string& group, double budget_s, int64_t B, int64_t T) {
  const bool cpu = ctx.device == Device::cpu;
  BG_CHECK(B > 0 && T > 0, "cannot time", B, "rows of", T, "ids");
  std::string known;
  for (const bench::Entry& g : bench::kGroups) {
    if (!(cpu ? g.cpu : g.gpu)) continue;
    if (g.name == group)
      return g.figures ? g.figures(ctx, budget_s, B, T) : bench::bench_ops(ctx, group, budget_s, B, T);
    known += (known.empty() ? "" : ", ") + std::string(g.name);
  }
  BG_CHECK(false, "unknown group", group, "to measure; known are", known);
  return {};
}

}  // namespace bg
