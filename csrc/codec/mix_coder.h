// How tensors that are not int8 matrices (floats, scales, small ones) become bytes: every bit is predicted by three
// adaptive models (the bytes of this element so far; those plus the previous element; those plus the element at the
// same place of the last similar tensor), and a small network, learning as it goes, mixes the three. Integers only, so
// that every machine predicts the same. Source of the mixing: Mahoney 2005, "Adaptive Weighing of Context Models for
// Lossless Data Compression".
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace bg {

/// One tensor's place in a stream.
struct MixPart {
  size_t size_bytes = 0;     // a multiple of element_bytes
  size_t element_bytes = 1;  // 1, 2, 4 or 8
  int similar = -1;          // index of an earlier part with the same size and element_bytes, or -1
};

/// Codes the parts, which follow one another in `raw`.
Bytes encode_mix(std::span<const MixPart> parts, std::span<const uint8_t> raw);

/// Fills raw, which has the parts' total size. stored_bytes (one per part) receives how much of the stream each part
/// took. Throws FormatError starting with `what` unless the stream ends exactly where the parts do.
void decode_mix(std::span<const MixPart> parts, std::span<const uint8_t> bytes, std::span<uint8_t> raw,
                std::span<size_t> stored_bytes, const std::string& what);

}  // namespace bg
