// One GPU as bytegolf uses it: a stream, a cuBLASLt handle, scratch memory. For files under cuda/ only.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <memory>

#include "base/check.h"
#include "base/ctx.h"

namespace bg::cuda {

[[noreturn]] void failed(const char* file, int line, const char* expression, cudaError_t error);
[[noreturn]] void launch_failed(const char* file, int line, const char* kernel, cudaError_t error);

/// Throws SystemError with the expression, file:line and CUDA's words.
#define BG_CUDA(expr)                                                 \
  do {                                                                \
    if (const cudaError_t bg_error = (expr); bg_error != cudaSuccess) \
      ::bg::cuda::failed(__FILE__, __LINE__, #expr, bg_error);        \
  } while (false)

class Context {
 public:
  /// Opens GPU `device` (of the visible ones). Throws SystemError saying why when there is no usable one.
  explicit Context(int device);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  /// Makes this GPU the calling thread's current one.
  void use() const;
  cudaStream_t stream() const { return stream_; }
  int device() const { return device_; }
  int num_sms() const { return properties_.multiProcessorCount; }
  const cudaDeviceProp& properties() const { return properties_; }
  /// Hopper instructions (wgmma, TMA) exist: compute capability 9.0.
  bool is_hopper() const { return properties_.major == 9; }

  /// Memory for one call of one op: the next call on the stream may overwrite it. At most kScratchBytes; aligned to
  /// 256.
  void* scratch(size_t size_bytes) const;
  static constexpr size_t kScratchBytes = size_t{64} << 20;
  /// Memory that cuBLASLt uses inside a product; apart from scratch(), so that an op may hold scratch across products.
  void* gemm_workspace() const { return gemm_workspace_; }
  static constexpr size_t kGemmWorkspaceBytes = size_t{64} << 20;

  /// Per-context state of a part (a cuBLASLt handle with its plans, say), made once by that part.
  std::shared_ptr<void> gemm_state;

 private:
  int device_ = 0;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  void* scratch_ = nullptr;
  void* gemm_workspace_ = nullptr;
};

inline cudaStream_t stream_of(const Ctx& ctx) {
  return ctx.cuda->stream();
}

}  // namespace bg::cuda
