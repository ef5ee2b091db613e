// What a stream costs: nats of every target, each scored exactly once, in whole chunks or sliding windows.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace bg {

/// Sums of a scoring in float64. bpb = nats / (ln 2 * bytes): special ids cost nats but are not bytes.
struct Score {
  double nats = 0;
  int64_t bytes = 0, targets = 0;
  double bpb() const;  // NaN when no byte was scored
};

/// Windows start every `stride` ids, see at most `window` ids, and score the targets that no window before them
/// contained. `stream`: its first id is context only, so M ids have M-1 targets. stride = window gives whole chunks.
/// Several processes may share one scoring: part p of n takes neighbouring windows, and with them the targets
/// first() .. last() - 1.
class Evaluation {
 public:
  /// Throws InvalidArgument when the stream has fewer than 2 ids, an id is outside the vocabulary, or not 1 <= stride
  /// <= window.
  Evaluation(Model& model, std::span<const int32_t> stream, int64_t window, int64_t stride, int64_t part = 0,
             int64_t parts = 1);
  /// Scores the next few windows (about 16 Ki ids); false when none were left. Throws NumericsError at the first target
  /// whose nats are not finite.
  bool advance();
  int64_t targets() const { return static_cast<int64_t>(stream_.size()) - 1; }
  int64_t first() const { return first_; }
  int64_t last() const { return last_; }
  const Score& score() const { return score_; }         // of this part's targets so far
  std::span<const double> nll() const { return nll_; }  // per target, nats; 0 where not yet scored

 private:
  Model& model_;
  std::span<const int32_t> stream_;
  int64_t window_, stride_, next_ = 0, scored_ = 0, first_ = 0, last_ = 0;
  std::vector<int32_t> ids_, targets_;
  std::vector<double> out_, nll_;
  Score score_;
};

}  // namespace bg
