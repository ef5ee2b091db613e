// When gradients are added up over the ranks: as soon as enough of them that lie side by side are final, so that the
// sums travel while backward still runs.
#pragma once

#include <cstdint>
#include <vector>

#include "ranks/comm.h"
#include "tensor/params.h"

namespace bg {

/// For one step after another: ready() as backward goes, finish() behind it. Which ranges go together depends on the
/// order of ready() alone, so it is the same on all ranks.
class Buckets {
 public:
  static constexpr int64_t kBytes = int64_t{16} << 20;
  /// Keeps a reference to `comm`.
  Buckets(Comm& comm, const ParamTable& params, int64_t bucket_bytes = kBytes);

  /// The gradients of tensors first..last-1 (in order of declaration) are final.
  void ready(size_t first, size_t last);
  /// All gradients are final: queues what is left, and the context's further work waits for all of it.
  void finish();

 private:
  enum class State : uint8_t { pending, ready, sent };
  struct Piece {
    int64_t lo, hi;  // elements of the arena
    State state;
  };
  // Queues every run of neighbouring pieces that are ready, of at least `least` bytes.
  void send(int64_t least);

  Comm& comm_;
  Tensor grads_;
  int64_t bucket_bytes_;
  std::vector<Piece> pieces_;  // in order of the arena
  std::vector<size_t> place_;  // of each tensor in order of declaration: its piece
};

}  // namespace bg
