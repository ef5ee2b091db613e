#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace bg {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  /// The error of close is the last word on a write (NFS reports a full disk here).
  int close_now() { return ::close(std::exchange(fd_, -1)); }

 private:
  int fd_;
};

int open_to_read(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_system_error("cannot open", path, errno);
  return fd;
}

size_t size_of_regular_file(int fd, const std::string& path) {
  struct stat st;
  if (::fstat(fd, &st) != 0) throw_system_error("cannot stat", path, errno);
  if (S_ISDIR(st.st_mode)) throw_system_error("cannot read", path, EISDIR);
  if (!S_ISREG(st.st_mode)) throw_system_error("not a regular file:", path, EINVAL);
  return static_cast<size_t>(st.st_size);
}

std::string folder_of(const std::string& path) {
  const auto slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

mode_t current_umask() {
  // umask() can only be read by setting it, which races with other threads; Linux shows it in /proc instead.
  mode_t mask = 022;
  if (std::FILE* f = std::fopen("/proc/self/status", "re")) {
    char line[256];
    unsigned value = 0;
    while (std::fgets(line, sizeof line, f)) {
      if (std::sscanf(line, "Umask: %o", &value) == 1) mask = static_cast<mode_t>(value);
    }
    std::fclose(f);
  }
  return mask;
}

}  // namespace

void throw_system_error(std::string_view what, const std::string& path, int error_number) {
  throw FileError(words(what, path) + ": " + std::strerror(error_number), error_number);
}

Bytes read_file(const std::string& path, size_t cap_bytes) {
  const Descriptor fd(open_to_read(path));
  const size_t size = size_of_regular_file(fd.get(), path);
  if (size > cap_bytes) {
    throw FormatError(words(path) + ": " + words(size, "bytes are more than the", cap_bytes, "allowed"));
  }
  Bytes out(size);
  size_t at = 0;
  while (at < size) {
    const ssize_t got = ::read(fd.get(), out.data() + at, size - at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system_error("cannot read", path, errno);
    if (got == 0) throw FormatError(words(path) + ": " + words("ended at byte", at, "of", size, "while being read"));
    at += static_cast<size_t>(got);
  }
  return out;
}

void write_file_atomic(const std::string& path, std::span<const uint8_t> bytes) {
  std::string temporary = path + ".tmp.XXXXXX";
  Descriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (fd.get() < 0) throw_system_error("cannot create a file beside", path, errno);
  const auto give_up = [&](const char* what, int error_number) {
    ::unlink(temporary.c_str());
    throw_system_error(what, path, error_number);
  };
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t put = ::write(fd.get(), bytes.data() + at, bytes.size() - at);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) give_up("cannot write", errno);
    at += static_cast<size_t>(put);
  }
  if (::fchmod(fd.get(), 0666 & ~current_umask()) != 0) give_up("cannot set permissions of", errno);
  if (::fsync(fd.get()) != 0) give_up("cannot write", errno);
  if (fd.close_now() != 0) give_up("cannot write", errno);
  if (::rename(temporary.c_str(), path.c_str()) != 0) give_up("cannot replace", errno);

  const std::string folder = folder_of(path);
  const Descriptor dir(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (dir.get() < 0) throw_system_error("cannot open", folder, errno);
  // Some file systems cannot sync a folder and say EINVAL; the rename itself has happened.
  if (::fsync(dir.get()) != 0 && errno != EINVAL) throw_system_error("cannot write", folder, errno);
}

MappedFile::MappedFile(const std::string& path) {
  const Descriptor fd(open_to_read(path));
  const size_t size = size_of_regular_file(fd.get(), path);
  if (size == 0) return;
  void* p = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (p == MAP_FAILED) throw_system_error("cannot map", path, errno);
  data_ = static_cast<const uint8_t*>(p);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<uint8_t*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace bg
