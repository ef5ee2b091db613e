#include "data/loader.h"

#include <algorithm>

#include "base/check.h"
#include "base/random.h"

namespace bg {

// Feistel network of 8 rounds over the smallest even number of bits that holds n; values outside 0..n-1 are sent
// through again until they fall inside ("cycle walking": Black and Rogaway 2002), at most 4 times on average.
int64_t shuffled(int64_t i, int64_t n, uint64_t seed, uint32_t epoch) {
  BG_CHECK(i >= 0 && i < n, "place", i, "of", n);
  uint32_t half_bits = 1;
  while (uint64_t{1} << (2 * half_bits) < static_cast<uint64_t>(n)) ++half_bits;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  const Random random(seed, "loader order", epoch);
  uint64_t value = static_cast<uint64_t>(i);
  do {
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint64_t round = 0; round < 8; ++round) {
      const uint64_t mixed = left ^ (random.bits(round << 32 | right)[0] & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits | right;
  } while (value >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(value);
}

LoaderOptions LoaderOptions::of(const Config& config, int64_t rank, int64_t world) {
  LoaderOptions o;
  o.seq_len = config.seq_len;
  o.micro_batch_ids = config.micro_batch_ids;
  BG_CHECK(world >= 1 && config.train_batch_ids % (config.micro_batch_ids * world) == 0,
           "option train_batch_ids =", config.train_batch_ids,
           "is not a multiple of micro_batch_ids =", config.micro_batch_ids, "times the number of ranks", world);
  o.micro_batches = config.train_batch_ids / (config.micro_batch_ids * world);
  o.seed = static_cast<uint64_t>(config.seed);
  o.rank = rank;
  o.world = world;
  o.shuffle = config.shuffle;
  return o;
}

Loader::Loader(std::shared_ptr<const ShardSet> data, const LoaderOptions& options)
    : data_(std::move(data)), options_(options) {
  const LoaderOptions& o = options_;
  BG_CHECK(data_ != nullptr, "loader without data");
  BG_CHECK(o.seq_len >= 1, "seq_len =", o.seq_len, "must be at least 1");
  BG_CHECK(o.micro_batch_ids >= 1 && o.micro_batch_ids % o.seq_len == 0, "option micro_batch_ids =", o.micro_batch_ids,
           "is not a multiple of seq_len =", o.seq_len);
  BG_CHECK(o.micro_batches >= 1, "micro_batches =", o.micro_batches, "must be at least 1");
  BG_CHECK(o.world >= 1 && o.rank >= 0 && o.rank < o.world, "rank", o.rank, "of", o.world);
  BG_CHECK(o.prefetch >= 0 && o.prefetch <= 1024, "prefetch =", o.prefetch, "must be 0 to 1024");
  const int64_t needed = (o.shuffle ? o.seq_len : o.micro_batch_ids) + 1;
  if (data_->size() < needed)
    throw InvalidArgument(words("too little data:", data_->size(), "ids in", data_->shards().front().path,
                                data_->shards().size() > 1 ? "and the shards after it, but one" : "but one",
                                o.shuffle ? words("window of seq_len =", o.seq_len)
                                          : words("micro-batch of micro_batch_ids =", o.micro_batch_ids),
                                "needs", needed));
  ring_.resize(static_cast<size_t>(std::max(o.prefetch + 1, 1)));
}

Loader::~Loader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Loader::fill(int64_t step, int64_t micro, Batch& batch) const {
  const LoaderOptions& o = options_;
  BG_CHECK(step >= 0 && micro >= 0 && micro < o.micro_batches, "step", step, "and micro-batch", micro, "of",
           o.micro_batches);
  const int64_t T = o.seq_len, M = o.micro_batch_ids, B = M / T, N = data_->size();
  batch.step = step, batch.micro = micro, batch.B = B, batch.T = T;
  batch.x.resize(static_cast<size_t>(M));
  batch.y.resize(static_cast<size_t>(M));
  using Wide = unsigned __int128;  // positions in an endless stream outgrow 64 bits
  const Wide piece = (static_cast<Wide>(step) * o.micro_batches + micro) * o.world + o.rank;
  // Rows are one run of n ids from `start`, and their last target.
  std::vector<int32_t> run(static_cast<size_t>((o.shuffle ? T : M) + 1));
  const auto rows = [&](int64_t start, int64_t n, int32_t* x, int32_t* y) {
    data_->read(start, n + 1, run.data(), true);
    std::copy_n(run.begin(), n, x);
    std::copy_n(run.begin() + 1, n, y);
  };
  if (!o.shuffle) {
    rows(static_cast<int64_t>(piece * (M + 1) % N), M, batch.x.data(), batch.y.data());
    return;
  }
  const int64_t W = (N - 1) / T;
  for (int64_t b = 0; b < B; ++b) {
    const Wide window = piece * B + b;
    const auto epoch = static_cast<uint32_t>(window / W);
    const auto phase = static_cast<int64_t>(Random(o.seed, "loader phase", epoch).below(0, static_cast<uint64_t>(T)));
    const int64_t start = phase + T * shuffled(static_cast<int64_t>(window % W), W, o.seed, epoch);
    rows(start % N, T, &batch.x[static_cast<size_t>(b * T)], &batch.y[static_cast<size_t>(b * T)]);
  }
}

const Batch& Loader::get(int64_t step, int64_t micro) {
  BG_CHECK(step >= 0 && micro >= 0 && micro < options_.micro_batches, "step", step, "and micro-batch", micro, "of",
           options_.micro_batches);
  if (options_.prefetch == 0) {
    fill(step, micro, ring_[0]);
    return ring_[0];
  }
  const int64_t n = step * options_.micro_batches + micro;
  const auto slot = static_cast<size_t>(n) % ring_.size();
  std::unique_lock lock(mutex_);
  if (held_ < 0 || n < held_ || n > next_) {  // a seek; n == next_ is merely not ready yet
    next_ = n;
    ++turn_;
    error_ = nullptr;
  }
  held_ = n;
  if (!thread_.joinable()) thread_ = std::thread([this] { produce(); });
  changed_.notify_all();
  changed_.wait(lock, [&] { return next_ > n || error_; });
  if (next_ <= n) {
    held_ = -1;  // asking again tries again
    std::rethrow_exception(error_);
  }
  return ring_[slot];
}

void Loader::produce() {
  const auto slots = static_cast<int64_t>(ring_.size());
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || (held_ >= 0 && !error_ && next_ < held_ + slots); });
    if (stop_) return;
    const int64_t n = next_, turn = turn_;
    lock.unlock();
    std::exception_ptr error;
    try {
      fill(n / options_.micro_batches, n % options_.micro_batches, ring_[static_cast<size_t>(n % slots)]);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (turn != turn_) continue;
    if (error)
      error_ = error;
    else
      ++next_;
    changed_.notify_all();
  }
}

}  // namespace bg
