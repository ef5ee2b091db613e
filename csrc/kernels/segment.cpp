#include "kernels/segment.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(segment_mean_forward)
BG_DECLARE_BODIES(segment_mean_backward)
BG_DECLARE_BODIES(segment_add_forward)
BG_DECLARE_BODIES(segment_add_backward)
BG_DECLARE_BODIES(segment_pick_forward)
BG_DECLARE_BODIES(segment_pick_backward)
BG_DECLARE_BODIES(segment_step)

namespace bg {
namespace {

// Every position that names a run is inside it, and the run's positions are neighbours from its start on.
void check_values(const Segments& runs, int64_t B) {
  const int64_t P = runs.P, T = runs.T;
  for (int64_t b = 0; b < B; ++b) {
    const int32_t *start = runs.start.ptr<int32_t>() + b * P, *of = runs.of.ptr<int32_t>() + b * T;
    for (int64_t p = 0; p < P; ++p)
      BG_CHECK((p == 0 ? 0 : start[p - 1]) <= start[p] && start[p] <= T, "segments: run", p, "of row", b, "starts at",
               start[p]);
    for (int64_t t = 0; t < T; ++t) {
      const int64_t p = of[t];
      BG_CHECK(-1 <= p && p < P, "segments: position", t, "of row", b, "belongs to run", p, "of", P);
      if (p < 0) continue;
      BG_CHECK(start[p] <= t && (p + 1 == P || t < start[p + 1]) && (t == start[p] || of[t - 1] == p),
               "segments: position", t, "of row", b, "cannot belong to run", p, "which starts at", start[p]);
    }
  }
}

void check(const Tensor& positions, const Segments& runs, const Tensor& vectors) {
  BG_CHECK(positions.rank() == 3 && vectors.rank() == 3 && positions.dim(0) == vectors.dim(0) &&
               positions.dim(2) == vectors.dim(2) && positions.dim(1) == runs.T && vectors.dim(1) == runs.P,
           "segments:", runs.P, "runs in", runs.T, "positions, got", vectors.shape().str(), "and",
           positions.shape().str());
  BG_CHECK(positions.dtype() == vectors.dtype() && positions.device() == vectors.device(),
           "segments:", name_of(vectors.dtype()), "runs of", name_of(positions.dtype()),
           "positions, or their devices differ");
  BG_CHECK(positions.is_contiguous() && vectors.is_contiguous(), "segments: tensors must be contiguous");
  if (runs.K > 0) {
    BG_CHECK(runs.P == (runs.T + runs.lead) / runs.K, "segments:", runs.P, "runs of", runs.K, "in", runs.T,
             "positions");
    return;
  }
  const int64_t B = positions.dim(0);
  BG_CHECK(runs.start.shape() == Shape({B, runs.P}) && runs.of.shape() == Shape({B, runs.T}),
           "segments: runs that start at", runs.start.shape().str(), "of positions", runs.of.shape().str(), "for",
           positions.shape().str());
  for (const Tensor& t : {runs.start, runs.of})
    BG_CHECK(t.dtype() == DType::i32 && t.is_contiguous() && t.device() == positions.device(),
             "segments: starts and runs must be contiguous int32 beside their positions, got", name_of(t.dtype()));
  if (positions.device() == Device::cpu) check_values(runs, B);
}

}  // namespace

void segment_mean_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor m) {
  check(x, runs, m);
  BG_DISPATCH(x.device(), segment_mean_forward(ctx, x, runs, m));
}
void segment_mean_backward(const Ctx& ctx, Tensor dm, const Segments& runs, Tensor dx) {
  check(dx, runs, dm);
  BG_DISPATCH(dx.device(), segment_mean_backward(ctx, dm, runs, dx));
}
void segment_add_forward(const Ctx& ctx, Tensor a, const Segments& runs, Tensor x) {
  check(x, runs, a);
  BG_DISPATCH(x.device(), segment_add_forward(ctx, a, runs, x));
}
void segment_add_backward(const Ctx& ctx, Tensor dx, const Segments& runs, Tensor da) {
  check(dx, runs, da);
  BG_DISPATCH(dx.device(), segment_add_backward(ctx, dx, runs, da));
}
void segment_pick_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor first) {
  check(x, runs, first);
  BG_DISPATCH(x.device(), segment_pick_forward(ctx, x, runs, first));
}
void segment_pick_backward(const Ctx& ctx, Tensor dfirst, const Segments& runs, Tensor dx) {
  check(dx, runs, dfirst);
  BG_DISPATCH(dx.device(), segment_pick_backward(ctx, dfirst, runs, dx));
}
void segment_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t K, Tensor next, Tensor sum, Tensor mean,
                  Tensor added) {
  const int64_t B = x.dim(0), D = x.dim(-1);
  for (const Tensor& t : {next, sum, mean, added})
    BG_CHECK(x.rank() == 3 && t.shape() == Shape({B, D}) && t.is_contiguous() && t.device() == x.device(),
             "segment_step of", x.shape().str(), "with", t.shape().str());
  BG_CHECK(K > 0 && x.is_contiguous() && at.numel() == B && limit.numel() == B && at.dtype() == DType::i32 &&
               limit.dtype() == DType::i32 && at.device() == x.device() && limit.device() == x.device(),
           "segment_step of", x.shape().str(), "at", at.shape().str(), "up to", limit.shape().str());
  BG_DISPATCH(x.device(), segment_step(ctx, x, at, limit, K, next, sum, mean, added));
}

}  // namespace bg
