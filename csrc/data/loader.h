// Which ids a rank trains on in a step: batches as a pure function of (seed, step, micro-batch, rank, world), made
// ahead of time by one background thread.
//
// Piece number p = (step * micro_batches + micro) * world + rank. The stream of N ids is a ring.
//   in shard order: piece p is the M + 1 ids from p(M + 1) mod N (M = micro_batch_ids); x is all but the last,
//     y all but the first, both cut into rows of T.
//   shuffled: an epoch is the W = (N - 1) / T windows of T ids from phase + iT (plus one id for y), each visited once
//     in a pseudo-random order; phase in 0..T-1 and order follow from (seed, epoch). Row b of piece p is the
//     (pB + b)-th window overall. No table is kept: the order is a Feistel permutation.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/config.h"
#include "data/shard.h"

namespace bg {

struct LoaderOptions {
  int64_t seq_len = 0;          // ids; T
  int64_t micro_batch_ids = 0;  // ids; M = B * T, of one rank
  int64_t micro_batches = 1;    // per step and rank
  uint64_t seed = 0;
  int64_t rank = 0, world = 1;
  bool shuffle = false;
  int prefetch = 3;  // batches made ahead; 0: made by the caller's thread

  /// From seq_len, train_batch_ids, micro_batch_ids, seed and shuffle. Throws InvalidArgument when train_batch_ids
  /// does not divide evenly over ranks and micro-batches.
  static LoaderOptions of(const Config& config, int64_t rank = 0, int64_t world = 1);
};

struct Batch {
  int64_t step = 0, micro = 0;
  int64_t B = 0, T = 0;
  std::vector<int32_t> x, y;  // (B, T) each; y[b,t] is the id after x[b,t]
};

class Loader {
 public:
  /// Throws InvalidArgument when options contradict each other or the data is too short for one piece.
  Loader(std::shared_ptr<const ShardSet> data, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  const LoaderOptions& options() const { return options_; }

  /// The batch of (step, micro); valid until the next call. Asking in order (micro 0, 1, ..., then the next step)
  /// finds it ready; any other place is a seek, and gives the same batches as having come there in order.
  /// Throws what reading threw (FormatError for ids outside the vocabulary). One caller at a time.
  const Batch& get(int64_t step, int64_t micro);
  /// The same, without the background thread; any number of callers. Reuses the batch's memory.
  void fill(int64_t step, int64_t micro, Batch& batch) const;

 private:
  void produce();

  std::shared_ptr<const ShardSet> data_;
  LoaderOptions options_;
  std::vector<Batch> ring_;  // batch n lies in slot n % size

  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t held_ = -1;         // batch the caller holds; -1: none yet
  int64_t next_ = 0;          // batch the thread makes next; those in held_..next_-1 are ready
  int64_t turn_ = 0;          // counts seeks: a batch begun in an earlier turn is thrown away
  std::exception_ptr error_;  // what making batch next_ threw
  bool stop_ = false;
  std::thread thread_;  // started by the first get()
};

/// The i-th of n (0 <= i < n) in the pseudo-random order of (seed, epoch): a bijection on 0..n-1.
int64_t shuffled(int64_t i, int64_t n, uint64_t seed, uint32_t epoch);

}  // namespace bg
