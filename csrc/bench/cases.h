// Whole models that bench_group() times, and the arithmetic of their steps.
#pragma once

#include <string>
#include <vector>

#include "base/config.h"
#include "base/ctx.h"
#include "bench/bench.h"
#include "model/model.h"

namespace bg::bench {

/// Ids of random bytes, keyed by name.
std::vector<int32_t> random_ids(const Config& config, const char* name, int64_t n);

/// Arithmetic of one step: forward and backward as Model::flops() counts them; of the optimiser Newton-Schulz alone, as
/// it is computed, symmetric products by halves.
struct StepFlops {
  double forward = 0, backward = 0, optimiser = 0;
};
StepFlops step_flops(const Model& model, int64_t rows, int64_t T);

/// The gradient of two rows of T ids as ctx computes it against the CPU in float64, over all parameters at once.
double gradient_error(const Config& config, const Ctx& ctx, int64_t T);

/// Optimiser; forward, forward and backward; whole steps; steps of generating (CPU only): each returns its figures.
std::vector<Figure> bench_optimiser(const Ctx& ctx, double budget_s, int64_t B, int64_t T);
std::vector<Figure> bench_model(const Ctx& ctx, double budget_s, int64_t B, int64_t T);
std::vector<Figure> bench_steps(const Ctx& ctx, double budget_s, int64_t B, int64_t T);
std::vector<Figure> bench_generate(const Ctx& ctx, double budget_s, int64_t B, int64_t T);

}  // namespace bg::bench
