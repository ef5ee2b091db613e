// The owner of memory: Buffer, a movable block of aligned bytes on one device.
#pragma once

#include <utility>

#include "base/memory.h"

namespace bg {

class Buffer {
 public:
  static constexpr size_t kAlign = 64;  // bytes; one cache line, one AVX-512 register
  Buffer() = default;
  /// Zero-filled. Throws SystemError naming the request when memory runs out.
  explicit Buffer(size_t size_bytes, Device device = Device::cpu) : size_(size_bytes), device_(device) {
    if (size_bytes > 0) data_ = allocate(device, size_bytes);
  }
  ~Buffer() {
    if (data_ != nullptr) release(device_, data_);
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    return *this;
  }
  void* data() const { return data_; }
  size_t size_bytes() const { return size_; }
  char* at(size_t offset_bytes) const { return static_cast<char*>(data_) + offset_bytes; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  Device device_ = Device::cpu;
};

}  // namespace bg
