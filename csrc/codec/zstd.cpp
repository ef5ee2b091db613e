#include "codec/zstd.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <memory>
#include <mutex>

#include "base/check.h"

namespace bg {
namespace {

constexpr uint64_t kBlockBytes = 128 << 10;  // what a block of at least kBlockMinBytes holds at most
constexpr uint64_t kBlockMinBytes = 4;
constexpr int kUsualWindowLog = 24, kLargestWindowLog = 27;

/// Whether the frame was decoded; false when its window is above 2^window_log, before anything is handed on.
bool stream(std::span<const uint8_t> frame, uint64_t declared, const std::string& what, int window_log,
            const std::function<void(std::span<const uint8_t>)>& take) {
  const std::unique_ptr<ZSTD_DCtx, size_t (*)(ZSTD_DCtx*)> context(ZSTD_createDCtx(), ZSTD_freeDCtx);
  if (!context) throw SystemError("zstd: no memory for a decoder");
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, window_log);
  Bytes piece(ZSTD_DStreamOutSize());
  ZSTD_inBuffer in{frame.data(), frame.size(), 0};
  uint64_t given = 0;
  for (;;) {
    ZSTD_outBuffer out{piece.data(), piece.size(), 0};
    const size_t before = in.pos, left = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(left)) {
      if (ZSTD_getErrorCode(left) == ZSTD_error_frameParameter_windowTooLarge && window_log < kLargestWindowLog)
        return false;
      throw FormatError(what + ": zstd: " + ZSTD_getErrorName(left));
    }
    given += out.pos;
    if (given > declared) break;
    if (left != 0 && out.pos == 0 && in.pos == before) throw FormatError(what + ": the zstd frame ends early");
    if (out.pos != 0) take(std::span(piece).first(out.pos));
    if (left == 0) break;
  }
  if (given != declared) throw FormatError(what + ": " + words("zstd frame gave", given, "bytes of", declared));
  return true;
}

}  // namespace

Bytes zstd_compress(std::span<const uint8_t> bytes, int level) {
  BG_CHECK(level >= 1 && level <= ZSTD_maxCLevel(), "zstd level", level);
  Bytes out(ZSTD_compressBound(bytes.size()));
  const size_t size = ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), level);
  if (ZSTD_isError(size)) throw SystemError(words("zstd:", ZSTD_getErrorName(size)));
  out.resize(size);
  return out;
}

void zstd_check(std::span<const uint8_t> frame, uint64_t declared, const std::string& what) {
  const unsigned long long content = ZSTD_getFrameContentSize(frame.data(), frame.size());
  if (content == ZSTD_CONTENTSIZE_ERROR || content == ZSTD_CONTENTSIZE_UNKNOWN) {
    throw FormatError(words(what) + ": no zstd frame with a content size");
  }
  if (content != declared)
    throw FormatError(what + ": " + words("zstd frame of", content, "bytes, expected", declared));
  const size_t compressed = ZSTD_findFrameCompressedSize(frame.data(), frame.size());
  if (ZSTD_isError(compressed) || compressed != frame.size()) {
    throw FormatError(what + ": " + words("zstd frame does not end at its record's", frame.size(), "bytes"));
  }
  if (declared > (frame.size() / kBlockMinBytes + 1) * kBlockBytes)
    throw FormatError(what + ": " + words("a zstd frame of", frame.size(), "bytes cannot hold", declared));
}

void zstd_stream(std::span<const uint8_t> frame, uint64_t declared, const std::string& what,
                 const std::function<void(std::span<const uint8_t>)>& take) {
  zstd_check(frame, declared, what);
  if (stream(frame, declared, what, kUsualWindowLog, take)) return;
  static std::mutex one_large_window;
  const std::lock_guard lock(one_large_window);
  stream(frame, declared, what, kLargestWindowLog, take);
}

}  // namespace bg
