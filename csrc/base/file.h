// How bytes reach and leave the disk: whole-file reads under a cap, read-only maps, and writes that are all or nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace bg {

using Bytes = std::vector<uint8_t>;

/// A failed system call on a file, and its errno, which Python's OSError carries too.
struct FileError : SystemError {
  FileError(const std::string& message, int number) : SystemError(message), error_number(number) {}
  int error_number;
};

/// Throws FileError: "WHAT PATH: the text of errno". For every failed system call on a file.
[[noreturn]] void throw_system_error(std::string_view what, const std::string& path, int error_number);

/// The whole file. Throws SystemError when it cannot be read (missing, a folder, no permission), FormatError when it is
/// larger than `cap_bytes`, which is checked before any memory is taken.
Bytes read_file(const std::string& path, size_t cap_bytes);

/// Puts `bytes` at `path`: a temporary file in the same folder, fsync, rename over `path`, fsync of the folder. A
/// reader sees the old file or the new one, never a part; after an error (disk full, say) the old file is untouched and
/// the temporary one is gone. Permissions of a new file follow the umask. Throws SystemError naming the path.
void write_file_atomic(const std::string& path, std::span<const uint8_t> bytes);

/// A read-only view of a file through the page cache. Movable; unmapped at the end. Reading past the end of a file
/// that was truncated since raises SIGBUS, so map only files that are replaced by rename.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws SystemError when the file cannot be opened or mapped. An empty file gives an empty view.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace bg
