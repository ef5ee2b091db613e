// Memory that a kernel needs for itself: one buffer per thread and purpose, which grows to the largest size asked for
// and is then kept, so that a step which ran once allocates nothing when it runs again.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace bg {

/// A grow-once buffer aligned to 64 bytes. Declare it `thread_local static`: each thread then owns its own.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  /// n elements of T, contents unspecified; valid until the next call on the same object. Throws std::bad_alloc.
  template <class T>
  T* get(size_t n) {
    const size_t bytes = (n * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_bytes_) {
      std::free(data_);
      size_bytes_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (data_ == nullptr) throw std::bad_alloc();
      size_bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace bg
