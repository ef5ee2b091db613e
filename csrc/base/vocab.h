// What ids mean: the two alphabets over bytes, stated once for loader, model, scoring and packing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"

namespace bg {

/// Ids below `byte_offset` are special (they carry loss but no byte); byte b is id b + byte_offset.
struct Vocab {
  const char* name;
  int32_t size;                // ids; valid ones are 0..size-1
  int32_t byte_offset;         // id of byte 0
  int32_t pad, bos, eos, unk;  // -1 where there is none; bos opens every document

  constexpr int32_t id_of(uint8_t byte) const { return byte + byte_offset; }
  constexpr bool operator==(const Vocab& other) const { return std::string_view(name) == other.name; }

  /// How many of n ids stand for a byte: the divisor of bits per byte.
  template <class Id>
  constexpr int64_t count_bytes(const Id* ids, int64_t n) const {
    int64_t bytes = 0;
    for (int64_t i = 0; i < n; ++i) bytes += ids[i] >= static_cast<Id>(byte_offset);
    return bytes;
  }
};

inline constexpr Vocab kByte260{"byte260", 260, 4, 0, 1, 2, 3};
inline constexpr Vocab kByte256{"byte256", 256, 0, -1, -1, -1, -1};

/// The vocabulary of that name; throws InvalidArgument for an unknown name.
inline const Vocab& vocab_of(std::string_view name) {
  if (name == kByte260.name) return kByte260;
  if (name == kByte256.name) return kByte256;
  throw InvalidArgument(words("unknown vocabulary", name, "; known: byte260, byte256"));
}

/// "byte260 (0 to 259)", for messages.
inline std::string describe(const Vocab& v) {
  return std::string(v.name) + " (0 to " + std::to_string(v.size - 1) + ")";
}

}  // namespace bg
