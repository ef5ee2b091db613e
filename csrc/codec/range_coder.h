// How single bits with known probabilities become bytes: a binary arithmetic coder, integers only, and the counters
// that learn the probabilities. Source of the carry handling: Pavlov's LZMA specification (public domain).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/file.h"

namespace bg {

constexpr int kProbabilityBits = 16;  // probabilities of a one are 1..65535, in units of 2^-16

class BitEncoder {
 public:
  explicit BitEncoder(Bytes& out) : out_(out) {}
  void encode(int bit, uint32_t p1) {
    const uint32_t bound = (range_ >> kProbabilityBits) * p1;
    if (bit) {
      range_ = bound;
    } else {
      low_ += bound;
      range_ -= bound;
    }
    while (range_ < 1u << 24) {
      range_ <<= 8;
      shift_low();
    }
  }
  /// Call once, at the end.
  void finish() {
    for (int i = 0; i < 5; ++i) shift_low();
  }

 private:
  void shift_low() {
    if (low_ < 0xff000000u || low_ >> 32) {
      const uint8_t carry = static_cast<uint8_t>(low_ >> 32);
      if (started_) out_.push_back(static_cast<uint8_t>(cache_ + carry));
      for (; pending_ > 0; --pending_) out_.push_back(static_cast<uint8_t>(0xff + carry));
      cache_ = static_cast<uint8_t>(low_ >> 24);
      started_ = true;
    } else {
      ++pending_;
    }
    low_ = (low_ & 0x00ffffffu) << 8;
  }

  Bytes& out_;
  uint64_t low_ = 0;
  uint32_t range_ = 0xffffffffu;
  uint64_t pending_ = 0;
  uint8_t cache_ = 0;
  bool started_ = false;  // the first byte of the register is always zero and is not written
};

/// Reads what BitEncoder wrote. Damaged bytes decode to wrong bits; reading past the end gives zeros and is recorded.
class BitDecoder {
 public:
  explicit BitDecoder(std::span<const uint8_t> bytes) : bytes_(bytes) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
  }
  int decode(uint32_t p1) {
    const uint32_t bound = (range_ >> kProbabilityBits) * p1;
    int bit;
    if (code_ < bound) {
      range_ = bound;
      bit = 1;
    } else {
      code_ -= bound;
      range_ -= bound;
      bit = 0;
    }
    while (range_ < 1u << 24) {
      range_ <<= 8;
      code_ = code_ << 8 | next();
    }
    return bit;
  }
  /// Bytes taken so far; four of them are still in the register.
  size_t position() const { return at_; }
  /// True once bytes beyond the end were asked for: the stream is damaged, stop.
  bool overrun() const { return at_ > bytes_.size(); }
  /// True when exactly all bytes were taken: what an undamaged stream does.
  bool ended_exactly() const { return at_ == bytes_.size(); }

 private:
  uint32_t next() {
    const size_t at = at_++;
    return at < bytes_.size() ? bytes_[at] : 0;
  }

  std::span<const uint8_t> bytes_;
  size_t at_ = 0;
  uint32_t range_ = 0xffffffffu;
  uint32_t code_ = 0;
};

/// The probability of a one, learnt from the bits seen: the n-th bit moves it by 1 / (n + 1.5), later by 1 / kLimit.
struct BitCounter {
  static constexpr int kLimit = 250;
  static constexpr std::array<int32_t, kLimit + 1> kRate = [] {  // 2^16 / (n + 1.5)
    std::array<int32_t, kLimit + 1> rate{};
    for (int n = 0; n <= kLimit; ++n) rate[static_cast<size_t>(n)] = (2 << 16) / (2 * n + 3);
    return rate;
  }();
  uint16_t p = 1 << 15;
  uint16_t n = 0;

  uint32_t p1() const { return p < 48 ? 48u : p > 65535 - 48 ? 65535u - 48 : p; }
  void update(int bit) {
    const int32_t target = bit ? 65535 : 0;
    p = static_cast<uint16_t>(p + (((target - p) * int64_t{kRate[n]}) >> 16));
    if (n < kLimit) ++n;
  }
};

/// A symbol of `bits` bits, most significant first, each bit under the counter its predecessors choose.
/// counters points to 2^bits of them.
inline void encode_symbol(BitEncoder& coder, BitCounter* counters, int bits, uint32_t symbol) {
  uint32_t node = 1;
  for (int i = bits - 1; i >= 0; --i) {
    const int bit = static_cast<int>(symbol >> i & 1);
    coder.encode(bit, counters[node].p1());
    counters[node].update(bit);
    node = node << 1 | static_cast<uint32_t>(bit);
  }
}
inline uint32_t decode_symbol(BitDecoder& coder, BitCounter* counters, int bits) {
  uint32_t node = 1;
  for (int i = 0; i < bits; ++i) {
    const int bit = coder.decode(counters[node].p1());
    counters[node].update(bit);
    node = node << 1 | static_cast<uint32_t>(bit);
  }
  return node - (1u << bits);
}

}  // namespace bg
