// Who owns memory: Buffer, a movable block of aligned bytes on one device.
#pragma once

#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/dtype.h"

namespace bg {

class Buffer {
 public:
  static constexpr size_t kAlign = 64;  // bytes; one cache line, one AVX-512 register
  Buffer() = default;
  /// Zero-filled. Throws SystemError naming the request when memory runs out.
  explicit Buffer(size_t size_bytes, Device device = Device::cpu) : size_(size_bytes) {
    BG_CHECK(device == Device::cpu, "built without CUDA: device cuda");
    if (size_bytes == 0) return;
    const size_t rounded = (size_bytes + kAlign - 1) / kAlign * kAlign;
    data_ = std::aligned_alloc(kAlign, rounded);
    if (data_ == nullptr) throw SystemError(words("out of memory: asked for", size_bytes, "bytes on the CPU"));
    std::memset(data_, 0, rounded);
  }
  ~Buffer() { std::free(data_); }
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  void* data() const { return data_; }
  size_t size_bytes() const { return size_; }
  char* at(size_t offset_bytes) const { return static_cast<char*>(data_) + offset_bytes; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace bg
