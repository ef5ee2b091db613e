// A bytegolf artifact: one small, checksummed file of named tensors and a configuration.
// FORMAT.md gives the bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/threads.h"

namespace bg {

/// How a record's bytes are coded. The numbers are written to files.
enum class Coding : uint8_t { raw = 0, zstd = 1, mix = 2, grid = 3 };
const char* name_of(Coding coding);

/// A tensor to be stored: contiguous little-endian elements, not owned.
struct TensorView {
  std::string name;  // 1 to 1024 bytes of UTF-8
  DType dtype = DType::f32;
  std::vector<int64_t> dims;  // rank 0 to 8
  std::span<const uint8_t> bytes;
};

/// A tensor read back, and where its bytes were.
struct StoredTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  Bytes bytes;
  Coding coding = Coding::raw;
  size_t stored_bytes = 0;  // its share of the file; shares of one zstd record are by size
};

struct Artifact {
  std::string config;                 // TOML of the model section; may be empty
  std::vector<StoredTensor> tensors;  // in the order they were given
  size_t file_bytes = 0;
  size_t frame_bytes = 0;  // header, index and checksum
  size_t model_bytes = 0;  // classes and tables shared by the int8 matrices
};

/// Tensors and config as the bytes of an artifact. The same bytes for the same input (and libzstd), whatever the
/// machine and the number of threads. Throws InvalidArgument for a name that is given twice, too long, not UTF-8 or
/// with control characters, a rank above 8, a number of bytes that does not fit the shape, and what FORMAT.md limits.
Bytes pack_artifact(ThreadPool& pool, std::span<const TensorView> tensors, std::string_view config);

/// What becomes of decoded tensors: kept, or only checked and counted, piece by piece.
enum class Keep : uint8_t { nothing, bytes };

/// All tensors of an artifact together unpack to this at most, unless the caller says otherwise.
constexpr uint64_t kMaxDecodedBytes = 512'000'000;

/// Reads what pack_artifact made; nothing in `file` is trusted. Throws FormatError naming `path`, the offset and the
/// tensor; also when all tensors together unpack to more than max_decoded_bytes. Memory follows the bytes that are
/// there: none is taken for a declared size before it was compared with what is stored, and where a few bytes say that
/// they hold many, these are decoded before memory is taken. Tensors have no bytes when nothing is kept.
Artifact unpack_artifact(ThreadPool& pool, std::span<const uint8_t> file, const std::string& path,
                         Keep keep = Keep::bytes, uint64_t max_decoded_bytes = kMaxDecodedBytes);

/// The file at `path` in two steps, so that names and shapes can be compared with what is expected before anything is
/// decoded. Errors of each as unpack_artifact; SystemError when the file cannot be read.
class ArtifactReader {
 public:
  /// Checks everything that the file's front says, and its checksum.
  explicit ArtifactReader(const std::string& path, uint64_t max_decoded_bytes = kMaxDecodedBytes);
  ~ArtifactReader();
  ArtifactReader(const ArtifactReader&) = delete;
  ArtifactReader& operator=(const ArtifactReader&) = delete;

  /// Config, file_bytes, and of each tensor name, dtype, dims and coding; the rest is not known yet.
  const Artifact& front() const;
  Artifact read(ThreadPool& pool, Keep keep) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// pack_artifact, then write_file_atomic. Returns the bytes written.
size_t write_artifact(ThreadPool& pool, const std::string& path, std::span<const TensorView> tensors,
                      std::string_view config);

}  // namespace bg
