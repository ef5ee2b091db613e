#include "codec/zstd.h"

#include <zstd.h>

#include "base/check.h"

namespace bg {

Bytes zstd_compress(std::span<const uint8_t> bytes, int level) {
  BG_CHECK(level >= 1 && level <= ZSTD_maxCLevel(), "zstd level", level);
  Bytes out(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), level);
  if (ZSTD_isError(size)) throw SystemError(words("zstd:", ZSTD_getErrorName(size)));
  out.resize(size);
  return out;
}

void zstd_decompress(std::span<const uint8_t> frame, std::span<uint8_t> out, const std::string& what) {
  const unsigned long long declared = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (declared == ZSTD_CONTENTSIZE_ERROR || declared == ZSTD_CONTENTSIZE_UNKNOWN) {
    throw FormatError(words(what) + ": no zstd frame with a content size");
  }
  if (declared != out.size())
    throw FormatError(what + ": " + words("zstd frame of", declared, "bytes, expected", out.size()));
  const size_t compressed = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(compressed) || compressed != frame.size()) {
    throw FormatError(what + ": " + words("zstd frame does not end at its record's", frame.size(), "bytes"));
  }
  const size_t size = ZSTD_decompress(out.data(), out.size(), frame.data(), frame.size());
  if (ZSTD_isError(size)) throw FormatError(words(what) + ": zstd: " + ZSTD_getErrorName(size));
  if (size != out.size()) throw FormatError(what + ": " + words("zstd frame gave", size, "bytes of", out.size()));
}

}  // namespace bg
