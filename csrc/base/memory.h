// How bytes are taken on a device, cleared, and moved between host and device. Everything else goes through Buffer and
// Tensor.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "base/ctx.h"

namespace bg {

/// A context on `device`: threads, and on CUDA the GPU number `index` of the visible ones. Throws InvalidArgument for a
/// dtype the device does not know (cpu: float32, float64; cuda: float32, bfloat16) or a build without CUDA, SystemError
/// saying why when there is no usable GPU.
Ctx make_ctx(Device device, DType dtype, int threads = 0, int index = 0);

/// What `bytegolf doctor` reports about the GPUs.
struct GpuInfo {
  bool built = false;           // with CUDA kernels
  std::string unusable;         // why no GPU can be used; "" when one can
  std::string driver, runtime;  // versions, "" when unknown
  struct Gpu {
    std::string name;
    std::string capability;  // "9.0"
    size_t total_bytes = 0, free_bytes = 0;
  };
  std::vector<Gpu> gpus;
};
GpuInfo gpu_info();

/// Zero-filled memory; throws SystemError that names the request and, on a GPU, what is free.
void* allocate(Device device, size_t size_bytes);
void release(Device device, void* data) noexcept;

/// What allocate() could still give: free memory of the context's GPU, 0 (unknown) on the CPU.
size_t free_bytes(const Ctx& ctx);

/// Waits for all work on the context's stream.
void synchronise(const Ctx& ctx);
/// Copies between host and ctx.device, or inside it, in order with the context's other work. When this returns, a copy
/// from host memory has read it, and one to host memory has written it.
void copy_bytes(const Ctx& ctx, void* to, Device to_device, const void* from, Device from_device, size_t size_bytes);
void clear_bytes(const Ctx& ctx, Device device, void* data, size_t size_bytes);

/// Host memory that the context's device reads and writes by itself (pinned), so that copies need not wait.
class Staging {
 public:
  Staging() = default;
  Staging(const Ctx& ctx, size_t size_bytes);
  ~Staging();
  Staging(Staging&& other) noexcept { *this = std::move(other); }
  Staging& operator=(Staging&& other) noexcept;
  void* data() const { return data_; }
  size_t size_bytes() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
  Device device_ = Device::cpu;
};
/// A copy between Staging memory and the device, or inside the device, in order with the context's other work and
/// without waiting: the host side must stay as it is until synchronise().
void enqueue_copy(const Ctx& ctx, void* to, const void* from, size_t size_bytes);

}  // namespace bg
