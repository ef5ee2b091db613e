// Runs of neighbouring positions in the rows of a batch: where each run begins, and to which run a position belongs.
// Patches of bytes and chunks of positions are runs; the ops on them are in kernels/segment.h.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "tensor/tensor.h"

namespace bg {

/// P runs per row of T positions. Runs do not overlap and are in order; a position may belong to none (-1).
/// Equal runs are known by their length alone and cost no loads. Listed runs may differ from row to row, and a run may
/// be empty: padding up to P begins at the end of the row, or where the last run ends.
struct Segments {
  Tensor start;      // listed runs: (B,P) i32, first position of each run, 0..T, not decreasing in a row
  Tensor of;         // listed runs: (B,T) i32, run of each position, -1: none; run p holds start[p], start[p] + 1, ...
  int64_t K = 0;     // equal runs: positions of a run; 0: listed runs
  int64_t lead = 0;  // equal runs: positions that run 0 would need before the row, 0 <= lead < K
  int64_t P = 0, T = 0;

  /// Run p holds pK - lead .. pK - lead + K - 1, as far as these are in the row; the positions after the last whole run
  /// belong to none.
  static Segments equal(int64_t T, int64_t K, int64_t lead = 0) {
    BG_CHECK(T >= 0 && K > 0 && 0 <= lead && lead < K, "equal runs of", K, "positions,", lead, "before a row of", T);
    return {{}, {}, K, lead, (T + lead) / K, T};
  }
  /// Runs that end at the multiples of K: run p holds pK - K + 1 .. pK, so that run 0 has position 0 alone.
  static Segments ending_at_multiples(int64_t T, int64_t K) { return equal(T, K, K - 1); }
  /// start (B,P) and of (B,T), contiguous int32.
  static Segments listed(Tensor start, Tensor of) {
    BG_CHECK(start.rank() == 2 && of.rank() == 2, "runs that start at", start.shape().str(), "of positions",
             of.shape().str());
    return {start, of, 0, 0, start.dim(1), of.dim(1)};
  }
};

}  // namespace bg
