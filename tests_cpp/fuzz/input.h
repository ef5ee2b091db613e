// What the fuzz targets share: numbers drawn for a mutation, and libFuzzer's own mutations on a growing buffer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "base/file.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);  // libFuzzer's

namespace bg::fuzz {

/// Random numbers of one mutation; equal seeds draw equal numbers.
class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}
  /// 0..n-1.
  size_t below(size_t n) { return n == 0 ? 0 : static_cast<size_t>(random_() % n); }
  bool one_in(size_t n) { return below(n) == 0; }
  uint64_t bits() { return random_(); }
  /// A number that readers stumble over: 0, 1, a power of two or its neighbour, or any.
  uint64_t awkward() {
    switch (below(4)) {
      case 0:
        return below(4);
      case 1:
        return (uint64_t{1} << below(64)) - below(3);
      case 2:
        return ~uint64_t{0} - below(3);
      default:
        return bits() >> below(64);
    }
  }

 private:
  std::mt19937_64 random_;
};

/// libFuzzer's mutation of `bytes`, which may grow by `room`.
inline void mutate(Bytes& bytes, size_t room) {
  const size_t size = bytes.size();
  bytes.resize(size + room);
  if (bytes.empty()) return;
  bytes.resize(LLVMFuzzerMutate(bytes.data(), size, bytes.size()));
}

/// What a custom mutator returns: `bytes`, cut to what there is room for.
inline size_t give(std::span<const uint8_t> bytes, uint8_t* data, size_t max_size) {
  const size_t size = std::min(bytes.size(), max_size);
  if (size > 0) std::memcpy(data, bytes.data(), size);
  return size;
}

/// Ends the program, and so reports a finding, unless `holds`.
inline void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace bg::fuzz
