#include "ranks/buckets.h"

#include <algorithm>
#include <numeric>

namespace bg {

Buckets::Buckets(Comm& comm, const ParamTable& params, int64_t bucket_bytes)
    : comm_(comm), grads_(params.grads()), bucket_bytes_(bucket_bytes) {
  BG_CHECK(bucket_bytes >= 1, "a bucket of", bucket_bytes, "bytes");
  const auto specs = params.specs();
  std::vector<size_t> order(specs.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return specs[a].offset < specs[b].offset; });
  place_.resize(specs.size());
  for (const size_t i : order) {
    place_[i] = pieces_.size();
    pieces_.push_back({specs[i].offset, specs[i].offset + specs[i].shape.numel(), State::pending});
  }
}

void Buckets::ready(size_t first, size_t last) {
  BG_CHECK(first <= last && last <= place_.size(), "tensors", first, "to", last, "of", place_.size());
  for (size_t i = first; i < last; ++i) {
    BG_CHECK(pieces_[place_[i]].state == State::pending, "gradient", i, "was final already");
    pieces_[place_[i]].state = State::ready;
  }
  send(bucket_bytes_);
}

void Buckets::finish() {
  for (Piece& piece : pieces_)
    if (piece.state == State::pending) piece.state = State::ready;
  send(1);
  comm_.join();
  for (Piece& piece : pieces_) piece.state = State::pending;
}

void Buckets::send(int64_t least) {
  for (size_t i = 0; i < pieces_.size();) {
    size_t end = i;
    while (end < pieces_.size() && pieces_[end].state == State::ready) ++end;
    if (end == i) {
      ++i;
      continue;
    }
    const int64_t lo = pieces_[i].lo, hi = pieces_[end - 1].hi;  // gaps between tensors are zeros on every rank
    if ((hi - lo) * static_cast<int64_t>(size_of(grads_.dtype())) >= least) {
      comm_.all_reduce(grads_.slice(0, lo, hi));
      for (; i < end; ++i) pieces_[i].state = State::sent;
    }
    i = end;
  }
}

}  // namespace bg
