// How fast the parts of a step are on one device, beside what the device can do: `bytegolf bench`.
//
// Each piece of work is checked, then timed. What its figures are held against (matrix products, memory) is measured in
// the same run.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/ctx.h"

namespace bg {

/// One piece of work at one size.
struct Figure {
  std::string group, what;
  double flops = 0;             // additions and multiplications of its matrix products and attention, causal pairs only
  double bytes = 0;             // operands read and results written once; 0 where nobody counted
  double ids = 0;               // that a whole step reads; 0 for parts of one
  std::optional<double> error;  // relative, against float64 on the CPU at the size `checked_at`; absent: not checked
  double tolerance = 0;         // of that error
  std::string checked_at;
  double memory_bytes = 0;          // of the GPU, that a model and its training take; 0 for single operations
  std::vector<double> seconds;      // of the calls timed: by the GPU's clock, on the CPU by the wall clock
  std::vector<double> cpu_seconds;  // on the CPU: the same calls, summed over threads, whatever else runs; else empty
};

/// What ctx's device can do: the floors of all figures are measured against these.
struct Rates {
  double gemm_flops = 0;      // a second. GPU: median 8192^3 product in ctx.dtype; CPU: best (2048,512)x(512,512)
  double gemm_flops_cpu = 0;  // CPU only: the same a second of one thread's CPU time
  double copy_bytes = 0;      // a second, bytes read plus written. GPU: median copy of 1 GiB; CPU: best of 128 MiB
};
Rates measure_rates(const Ctx& ctx, double budget_s);

/// Groups that are measured on the device, in order.
std::vector<std::string> bench_groups(Device device);

/// Checks and times every piece of work of a group on B rows of T ids, where it depends on them. GPU: at least 20 calls
/// each after a warm-up, but no more than about budget_s seconds a piece once 3 were made. CPU, with the pool's
/// threads: calls of about budget_s seconds for the whole group, at least 3 a piece. Throws InvalidArgument for groups
/// unknown on the device, and when the ctx's GEMM library is not available.
std::vector<Figure> bench_group(const Ctx& ctx, const std::string& group, double budget_s, int64_t B, int64_t T);

}  // namespace bg
