// How fast the parts of a step are: each op is checked against its definition first, then timed on shapes of the
// reference models. What the figures are held against (matrix products, memory) is measured in the same run.
#pragma once

#include <string>
#include <vector>

#include "base/ctx.h"

namespace bg {

/// One op on one shape.
struct BenchFigure {
  std::string op, shape;
  double flops = 0;      // arithmetic of one call: additions and multiplications of its products, causal pairs only
  double bytes = 0;      // operands read and results written once
  double error = 0;      // relative, against the definition in float64
  double tolerance = 0;  // of that error
  std::vector<double> seconds;      // of the calls timed, by the wall clock
  std::vector<double> cpu_seconds;  // the same calls, summed over threads: what other programs take does not count
};

/// What this machine can do with ctx's threads: the floors that figures are shown beside.
struct MachineRates {
  double gemm_flops = 0;      // a second: best call of a (2048, 512) x (512, 512) float32 product
  double gemm_flops_cpu = 0;  // the same a second of one thread's CPU time
  double copy_bytes = 0;      // a second: best copy of 128 MiB, bytes read plus bytes written
};
MachineRates measure_machine(const Ctx& ctx, double budget_s);

/// Names of the ops that bench_op() knows, in order.
std::vector<std::string> bench_ops();

/// Checks and times the op for about budget_s seconds of timed calls, at least three. float32, ctx.pool's threads.
/// Throws InvalidArgument for unknown names, and when the ctx's GEMM library is not available.
std::vector<BenchFigure> bench_op(const Ctx& ctx, const std::string& name, double budget_s);

}  // namespace bg
