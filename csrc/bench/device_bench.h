// How fast the parts of a step are on one device, at the sizes that training has: `bytegolf bench --device cuda`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/ctx.h"

namespace bg {

/// One piece of work at one size.
struct DeviceFigure {
  std::string group, what;
  double flops = 0;  // additions and multiplications of its matrix products and attention
  double bytes = 0;  // operands read and results written once; 0 where nobody counted
  double ids = 0;    // that a whole step reads; 0 for parts of one
  std::optional<double>
      error;  // relative, against the CPU in float64 at the smaller size `checked_at`; absent: not checked
  double tolerance = 0;
  std::string checked_at;
  double memory_bytes = 0;      // of the device, that a model and its training take; 0 for single operations
  std::vector<double> seconds;  // of the calls timed, by the device's clock
};

/// What the floors of all figures are measured against, in the same run.
struct DeviceRates {
  double gemm_flops = 0;  // a second: median 8192^3 product of random numbers in ctx.dtype (2048^3 on the CPU)
  double copy_bytes = 0;  // a second: median copy of 1 GiB, bytes read plus bytes written
};
DeviceRates measure_device(const Ctx& ctx, double budget_s);

/// Groups that bench_device() knows, in order: gemm, attention, elementwise, optimiser, model, step.
std::vector<std::string> device_bench_groups();

/// Checks and times every piece of work of a group: at least 20 calls after a warm-up, but no more than about budget_s
/// seconds a piece once 3 were made. B rows of T ids: what forward and backward take at once; 0 means those of training
/// (12 and 4096). Throws InvalidArgument for unknown groups.
std::vector<DeviceFigure> bench_device(const Ctx& ctx, const std::string& group, double budget_s, int64_t B = 0,
                                       int64_t T = 0);

}  // namespace bg
