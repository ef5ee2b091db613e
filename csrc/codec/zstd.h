// How one buffer becomes one zstd frame and comes back; the frame always states its content size.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "base/file.h"

namespace bg {

/// One frame at level 1 to 22. Same bytes for the same input, level and libzstd version, at any thread count.
Bytes zstd_compress(std::span<const uint8_t> bytes, int level);

// Reading: neither frame nor sizes are trusted. FormatError, starting with `what` (path, offset and record), says when
// the frame is damaged, does not end at its last byte, or does not hold `declared` bytes.

/// What the frame says of itself, before anything is decoded: its end, its content size, and whether so few bytes can
/// hold so many (a block of at least 4 bytes holds at most 128 KiB).
void zstd_check(std::span<const uint8_t> frame, uint64_t declared, const std::string& what);

/// zstd_check, then hands the content to `take` piece by piece, in order. Takes the memory of the frame's window, at
/// most 128 MiB; windows above 16 MiB, which only frames from elsewhere have, one at a time.
void zstd_stream(std::span<const uint8_t> frame, uint64_t declared, const std::string& what,
                 const std::function<void(std::span<const uint8_t>)>& take);

}  // namespace bg
