// Named ranges on the timeline of NVIDIA's profilers (NVTX), so that launches can be told apart.
#pragma once

#include <cstddef>

namespace bg::cuda {

/// A range from here to the end of the scope. It calls nothing of CUDA, so it may stand where a stream is being
/// recorded; without a profiler it costs two tests of a pointer. The name must stay until then.
class ProfileRange {
 public:
  explicit ProfileRange(const char* name);
  ~ProfileRange();
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;
};

/// "file: kernel" from the path of a source file and a kernel's text, put together by the compiler: many files have a
/// forward_kernel. Parentheses around the whole text are left out.
template <size_t kPath, size_t kText>
struct KernelName {
  char text[kPath + kText + 1] = {};

  consteval KernelName(const char (&path)[kPath], const char (&kernel)[kText]) {
    size_t first = 0, end = kPath - 1, n = 0;
    for (size_t i = 0; i < kPath - 1; ++i)
      if (path[i] == '/') first = i + 1;
    for (size_t i = kPath - 1; i > first; --i)
      if (path[i - 1] == '.') end = i - 1;
    for (size_t i = first; i < end; ++i) text[n++] = path[i];
    text[n++] = ':';
    text[n++] = ' ';
    const bool enclosed = kernel[0] == '(' && kernel[kText - 2] == ')';
    for (size_t i = enclosed; i < kText - 1 - enclosed; ++i) text[n++] = kernel[i];
  }
};

}  // namespace bg::cuda
