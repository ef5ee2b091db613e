// A bytegolf artifact: one small, checksummed file of named tensors and a configuration.
// FORMAT.md gives the bytes.
#pragma once

#include <cstdint>
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
/// machine and the number of threads. Throws InvalidArgument for a name that is given twice, too long or not UTF-8,
/// a rank above 8, or a number of bytes that does not fit the shape.
Bytes pack_artifact(ThreadPool& pool, std::span<const TensorView> tensors, std::string_view config);

/// Reads what pack_artifact made; nothing in `file` is trusted. Throws FormatError naming `path`, the offset and the
/// tensor. No more memory is taken for tensors than max(1 GiB, 256 x file), checked before any is.
Artifact unpack_artifact(ThreadPool& pool, std::span<const uint8_t> file, const std::string& path);

/// pack_artifact, then write_file_atomic. Returns the bytes written.
size_t write_artifact(ThreadPool& pool, const std::string& path, std::span<const TensorView> tensors,
                      std::string_view config);
/// read_file, then unpack_artifact.
Artifact read_artifact(ThreadPool& pool, const std::string& path);

}  // namespace bg
