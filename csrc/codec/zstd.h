// How one buffer becomes one zstd frame and comes back; the frame always states its content size.
#pragma once

#include <span>
#include <string>

#include "base/file.h"

namespace bg {

/// One frame at level 1 to 22. Same bytes for the same input, level and libzstd version, at any thread count.
Bytes zstd_compress(std::span<const uint8_t> bytes, int level);

/// Decodes one frame of exactly `frame.size()` bytes into exactly `out.size()` bytes; neither is trusted. Throws
/// FormatError starting with `what` (path, offset and record) when the frame is damaged or states another size.
void zstd_decompress(std::span<const uint8_t> frame, std::span<uint8_t> out, const std::string& what);

}  // namespace bg
