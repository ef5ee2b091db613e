#include "codec/mix_coder.h"

#include <algorithm>
#include <array>
#include <memory>

#include "base/check.h"
#include "codec/range_coder.h"

namespace bg {
namespace {

constexpr int kInputs = 4;  // three models and a constant
constexpr int kMaxElementBytes = 8;
constexpr int kStretchLimit = 2047;  // log-odds are in units of 1/256 nat, clamped to +-8 nats

/// 4096 / (1 + exp(-x / 256)) by interpolation between 33 points, the table of Mahoney's lpaq (values are rounded
/// logistics).
int squash(int x) {
  static constexpr int kPoints[33] = {1,    2,    3,    6,    10,   16,   27,   45,   73,   120,  194,
                                      310,  488,  747,  1101, 1546, 2047, 2549, 2994, 3348, 3607, 3785,
                                      3901, 3975, 4024, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094};
  if (x > kStretchLimit) return 4095;
  if (x < -kStretchLimit) return 1;
  const int w = x & 127;
  const int i = (x >> 7) + 16;
  return (kPoints[i] * (128 - w) + kPoints[i + 1] * w + 64) >> 7;
}

/// The inverse of squash over 12-bit probabilities.
struct StretchTable {
  std::array<int16_t, 4096> of;
  StretchTable() {
    int filled = 0;
    for (int x = -kStretchLimit; x <= kStretchLimit; ++x) {
      const int p = squash(x);
      for (; filled <= p; ++filled) of[filled] = static_cast<int16_t>(x);
    }
    for (; filled < 4096; ++filled) of[filled] = kStretchLimit;
  }
};

/// Predicts bit after bit of a stream of bytes; encoder and decoder keep equal copies and show them equal bits.
class Predictor {
 public:
  explicit Predictor(size_t raw_bytes) {
    // Room for about one counter per bit of the stream, between 2^12 and 2^20 per model, in groups of the 15 nodes of
    // half a byte.
    int bits = 8;
    while (bits < 16 && (size_t{1} << bits) * kGroup < 8 * raw_bytes) ++bits;
    mask_ = (1u << bits) - 1;
    for (auto& table : counters_) table.resize(kGroup << bits);
    weights_.fill(0);
    for (size_t i = 0; i < weights_.size(); ++i) weights_[i] = i % kInputs < 3 ? 26000 : 0;
  }

  /// Contexts of the byte about to come: its plane (0 = most significant) and what the three models go by.
  void start_byte(int plane, uint64_t own, uint64_t previous, uint64_t similar) {
    plane_ = plane;
    node_ = 1;
    const uint64_t base = own * 0x9E3779B97F4A7C15u + static_cast<uint64_t>(plane) * 0xD6E8FEB86659FD93u;
    hash_[0] = base;
    hash_[1] = base + (previous + 1) * 0xC2B2AE3D27D4EB4Fu;
    hash_[2] = base + (similar + 1) * 0x165667B19E3779F9u;
    start_half();
  }

  uint32_t p1() {
    int64_t dot = 0;
    set_ = &weights_[static_cast<size_t>((plane_ * 256 + static_cast<int>(node_)) * kInputs)];
    for (int m = 0; m < 3; ++m) {
      slot_[m] = group_[m] + in_half_;
      input_[m] = stretch_.of[slot_[m]->p >> 4];
      dot += int64_t{input_[m]} * set_[m];
    }
    input_[3] = 256;
    dot += int64_t{input_[3]} * set_[3];
    mixed_ = squash(static_cast<int>(std::clamp<int64_t>(dot >> 16, -kStretchLimit, kStretchLimit)));
    return static_cast<uint32_t>(mixed_) << 4;
  }

  void update(int bit) {
    const int error = ((bit << 12) - mixed_) * 6;
    for (int m = 0; m < kInputs; ++m) set_[m] += (input_[m] * error + 0x2000) >> 14;
    for (int m = 0; m < 3; ++m) slot_[m]->update(bit);
    node_ = node_ << 1 | static_cast<uint32_t>(bit);
    in_half_ = in_half_ << 1 | static_cast<uint32_t>(bit);
    if (in_half_ >= kGroup && node_ < 256) start_half();
  }

 private:
  static constexpr size_t kGroup = 16;

  /// Picks the counters of the next four bits: one cache line per model.
  void start_half() {
    in_half_ = 1;
    for (int m = 0; m < 3; ++m) {
      const uint64_t h = (hash_[m] + node_ * 0x2545F4914F6CDD1Du) * 0x9FB21C651E98DF25u;
      group_[m] = &counters_[m][kGroup * (static_cast<uint32_t>(h >> 40) & mask_)];
    }
  }

  inline static const StretchTable stretch_;
  std::array<std::vector<BitCounter>, 3> counters_;
  std::array<int32_t, kMaxElementBytes * 256 * kInputs> weights_;  // units of 2^-16
  uint32_t mask_ = 0;
  uint64_t hash_[3] = {};
  BitCounter* group_[3] = {};
  BitCounter* slot_[3] = {};
  int32_t* set_ = nullptr;
  int input_[kInputs] = {};
  int mixed_ = 2048;
  int plane_ = 0;
  uint32_t node_ = 1, in_half_ = 1;
};

uint64_t element_at(const uint8_t* p, size_t bytes) {
  uint64_t v = 0;
  for (size_t b = 0; b < bytes; ++b) v |= uint64_t{p[b]} << (8 * b);
  return v;
}

/// Walks the parts element by element, most significant byte first; code(predictor, byte) codes or fills one byte.
template <class Code, class PartDone>
void walk(std::span<const MixPart> parts, uint8_t* raw, size_t raw_bytes, const Code& code, const PartDone& part_done) {
  const auto predictor = std::make_unique<Predictor>(raw_bytes);
  std::vector<size_t> offset(parts.size());
  size_t at = 0;
  for (size_t t = 0; t < parts.size(); ++t) {
    const MixPart& part = parts[t];
    offset[t] = at;
    const size_t width = part.element_bytes;
    const uint8_t* similar = part.similar < 0 ? nullptr : raw + offset[static_cast<size_t>(part.similar)];
    uint64_t previous = 0;
    for (size_t e = 0; e < part.size_bytes; e += width) {
      uint8_t* element = raw + at + e;
      const uint64_t beside =
          similar ? element_at(similar + e, width) >> (width == 1 ? 0 : 8 * (width - 1) - 3) : previous >> 8;
      uint64_t own = width << 32;
      for (size_t b = width; b-- > 0;) {
        predictor->start_byte(static_cast<int>(width - 1 - b), own, previous, beside);
        code(*predictor, element[b]);
        own = own << 8 | element[b];
      }
      previous = element_at(element, width);
    }
    at += part.size_bytes;
    part_done(t);
  }
}

}  // namespace

Bytes encode_mix(std::span<const MixPart> parts, std::span<const uint8_t> raw) {
  Bytes out;
  BitEncoder coder(out);
  Bytes copy(raw.begin(), raw.end());
  walk(
      parts, copy.data(), copy.size(),
      [&](Predictor& p, uint8_t& byte) {
        for (int i = 7; i >= 0; --i) {
          const int bit = byte >> i & 1;
          coder.encode(bit, p.p1());
          p.update(bit);
        }
      },
      [](size_t) {});
  coder.finish();
  return out;
}

void decode_mix(std::span<const MixPart> parts, std::span<const uint8_t> bytes, std::span<uint8_t> raw,
                std::span<size_t> stored_bytes, const std::string& what) {
  BitDecoder coder(bytes);
  size_t taken = 0;
  walk(
      parts, raw.data(), raw.size(),
      [&](Predictor& p, uint8_t& byte) {
        if (coder.overrun()) throw FormatError(what + ": the stream ends before its values");
        uint32_t value = 0;
        for (int i = 0; i < 8; ++i) {
          const int bit = coder.decode(p.p1());
          p.update(bit);
          value = value << 1 | static_cast<uint32_t>(bit);
        }
        byte = static_cast<uint8_t>(value);
      },
      [&](size_t t) {
        stored_bytes[t] = coder.position() - taken;
        taken = coder.position();
      });
  if (!coder.ended_exactly()) throw FormatError(what + ": the stream does not end where its values do");
}

}  // namespace bg
