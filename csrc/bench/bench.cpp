#include "bench/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>

#include "bench/cases.h"
#include "kernels/gemm.h"

namespace bg {
namespace {

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double cpu_s() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Times {
  std::vector<double> wall, cpu;
};

Times time_calls(const std::function<void()>& run, double budget_s) {
  Times times;
  for (double spent = 0; spent < budget_s || times.wall.size() < 3;) {
    const double start = now_s(), cpu_start = cpu_s();
    run();
    times.wall.push_back(now_s() - start);
    times.cpu.push_back(cpu_s() - cpu_start);
    spent += times.wall.back();
  }
  return times;
}

double best(const std::vector<double>& seconds) {
  return *std::min_element(seconds.begin(), seconds.end());
}

struct Entry {
  const char* name;
  std::vector<bench::Case> (*cases)(const Ctx&);
};
constexpr Entry kEntries[] = {
    {"gemm", bench::gemm_cases},
    {"attention_forward", bench::attention_forward_cases},
    {"attention_backward", bench::attention_backward_cases},
    {"newton_schulz", bench::newton_schulz_cases},
    {"adam", bench::adam_cases},
    {"elementwise", bench::elementwise_cases},
    {"step", bench::step_cases},
    {"generate", bench::generate_cases},
};

}  // namespace

namespace bench {

Tensor Operands::zeros(Shape shape, DType dtype) {
  buffers_.emplace_back(static_cast<size_t>(shape.numel()) * size_of(dtype));
  return Tensor(buffers_.back().data(), shape, dtype, Device::cpu);
}

Tensor Operands::normal(const std::string& name, Shape shape, DType dtype) {
  const Tensor t = zeros(shape, dtype);
  const Random random(0, name, 0);
  // 4099 numbers, repeated: enough for a check, and drawing millions would take longer than the timing.
  std::vector<double> some(4099);
  for (size_t i = 0; i < some.size(); ++i) some[i] = random.normal(i);
  BG_FLOATS(dtype, T, {
    T* p = t.ptr<T>();
    for (int64_t i = 0; i < t.numel(); ++i) p[i] = static_cast<T>(some[static_cast<size_t>(i) % some.size()]);
  });
  return t;
}

Tensor Operands::doubled(Tensor x) {
  BG_CHECK(x.is_contiguous(), "only contiguous tensors are copied, got", x.shape().str());
  const Tensor t = zeros(x.shape(), DType::f64);
  for (int64_t i = 0; i < x.numel(); ++i) t.ptr<double>()[i] = static_cast<double>(x.ptr<float>()[i]);
  return t;
}

double relative_error(Tensor got, Tensor want) {
  BG_CHECK(got.shape() == want.shape(), "compared are", got.shape().str(), "and", want.shape().str());
  double off = 0, size = 0;
  BG_FLOATS(got.dtype(), T, {
    for (int64_t i = 0; i < got.numel(); ++i) {
      int64_t at = 0, from = 0, rest = i;
      for (int d = got.rank() - 1; d >= 0; --d) {
        at += rest % got.dim(d) * got.stride(d);
        from += rest % got.dim(d) * want.stride(d);
        rest /= got.dim(d);
      }
      const double w = want.ptr<double>()[from], e = static_cast<double>(got.ptr<T>()[at]) - w;
      off += e * e;
      size += w * w;
    }
  });
  return std::sqrt(off / std::max(size, 1e-300));
}

}  // namespace bench

MachineRates measure_machine(const Ctx& ctx, double budget_s) {
  MachineRates rates;
  {
    const int64_t M = 2048, N = 512, K = 512;
    bench::Operands o;
    const Tensor a = o.normal("a", {M, K}), b = o.normal("b", {N, K}), c = o.zeros({M, N});
    const double flops = 2.0 * static_cast<double>(M * N * K);
    const Times times = time_calls([&] { linear_forward(ctx, a, b, c); }, budget_s);
    rates.gemm_flops = flops / best(times.wall);
    rates.gemm_flops_cpu = flops / best(times.cpu);
  }
  constexpr size_t kBytes = size_t{128} << 20, kPiece = size_t{1} << 20;
  const Buffer from(kBytes), to(kBytes);
  const auto copy = [&] {
    ctx.pool->parallel_for(kBytes / kPiece, [&](int64_t i) {
      const size_t at = static_cast<size_t>(i) * kPiece;
      std::memcpy(to.at(at), from.at(at), kPiece);
    });
  };
  rates.copy_bytes = 2.0 * static_cast<double>(kBytes) / best(time_calls(copy, budget_s).wall);
  return rates;
}

std::vector<std::string> bench_ops() {
  std::vector<std::string> names;
  for (const Entry& e : kEntries) names.push_back(e.name);
  return names;
}

std::vector<BenchFigure> bench_op(const Ctx& ctx, const std::string& name, double budget_s) {
  for (const Entry& e : kEntries) {
    if (name != e.name) continue;
    std::vector<BenchFigure> figures;
    const std::vector<bench::Case> cases = e.cases(ctx);
    for (const bench::Case& c : cases) {
      BenchFigure f{name, c.shape, c.flops, c.bytes, 0, c.tolerance, {}, {}};
      c.run();
      f.error = c.error();
      Times times = time_calls(c.run, budget_s / static_cast<double>(cases.size()));
      f.seconds = std::move(times.wall);
      f.cpu_seconds = std::move(times.cpu);
      figures.push_back(std::move(f));
    }
    return figures;
  }
  std::string known;
  for (const Entry& e : kEntries) known += std::string(known.empty() ? "" : ", ") + e.name;
  BG_CHECK(false, "unknown op", name, "to measure; known are", known);
  return {};
}

}  // namespace bg
