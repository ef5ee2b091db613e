#include "base/memory.h"

#include <cstdlib>
#include <cstring>

namespace bg {
namespace cpu {

constexpr size_t kAlign = 64;  // one cache line, one AVX-512 register

void allocate(size_t size_bytes, void*& data) {
  const size_t rounded = (size_bytes + kAlign - 1) / kAlign * kAlign;
  data = std::aligned_alloc(kAlign, rounded);
  if (data == nullptr) throw SystemError(words("out of memory: asked for", size_bytes, "bytes on the CPU"));
  std::memset(data, 0, rounded);
}
void release(void* data) noexcept {
  std::free(data);
}
void open(Ctx&, int) {}
void describe(GpuInfo&) {}
void synchronise(const Ctx&) {}
void free_bytes(const Ctx&, size_t&) {}
void copy_bytes(const Ctx&, void* to, Device, const void* from, Device, size_t size_bytes) {
  std::memmove(to, from, size_bytes);
}
void clear_bytes(const Ctx&, void* data, size_t size_bytes) {
  std::memset(data, 0, size_bytes);
}
void allocate_staging(size_t size_bytes, void*& data) {
  allocate(size_bytes, data);
}
void release_staging(void* data) noexcept {
  std::free(data);
}
void enqueue_copy(const Ctx&, void* to, const void* from, size_t size_bytes) {
  std::memmove(to, from, size_bytes);
}

}  // namespace cpu

namespace cuda {  // base/cuda/memory.cu
void allocate(size_t size_bytes, void*& data);
void release(void* data) noexcept;
void open(Ctx& ctx, int index);
void describe(GpuInfo& info);
void synchronise(const Ctx& ctx);
void free_bytes(const Ctx& ctx, size_t& bytes);
void copy_bytes(const Ctx& ctx, void* to, Device to_device, const void* from, Device from_device, size_t size_bytes);
void clear_bytes(const Ctx& ctx, void* data, size_t size_bytes);
void allocate_staging(size_t size_bytes, void*& data);
void release_staging(void* data) noexcept;
void enqueue_copy(const Ctx& ctx, void* to, const void* from, size_t size_bytes);
}  // namespace cuda

Ctx make_ctx(Device device, DType dtype, int threads, int index) {
  if (device == Device::cpu)
    BG_CHECK(dtype == DType::f32 || dtype == DType::f64, "dtype", name_of(dtype),
             "is not known on the CPU; known: float32, float64");
  else
    BG_CHECK(dtype == DType::f32 || dtype == DType::bf16, "dtype", name_of(dtype),
             "is not known on CUDA; known: float32, bfloat16");
  Ctx ctx;
  ctx.device = device;
  ctx.dtype = dtype;
  BG_DISPATCH(device, open(ctx, index));
  ctx.pool = std::make_shared<ThreadPool>(threads);
  return ctx;
}

GpuInfo gpu_info() {
  GpuInfo info;
  info.built = kBuiltWithCuda;
  if constexpr (kBuiltWithCuda)
    BG_DISPATCH(Device::cuda, describe(info));
  else
    info.unusable = "this build of bytegolf has no CUDA kernels";
  return info;
}

void* allocate(Device device, size_t size_bytes) {
  void* data = nullptr;
  BG_DISPATCH(device, allocate(size_bytes, data));
  return data;
}
void release(Device device, void* data) noexcept {
  if (device == Device::cpu) {
    cpu::release(data);
    return;
  }
  if constexpr (kBuiltWithCuda) BG_DISPATCH(device, release(data));
}
size_t free_bytes(const Ctx& ctx) {
  size_t bytes = 0;
  BG_DISPATCH(ctx.device, free_bytes(ctx, bytes));
  return bytes;
}
void synchronise(const Ctx& ctx) {
  BG_DISPATCH(ctx.device, synchronise(ctx));
}
void copy_bytes(const Ctx& ctx, void* to, Device to_device, const void* from, Device from_device, size_t size_bytes) {
  if (size_bytes > 0) BG_DISPATCH(ctx.device, copy_bytes(ctx, to, to_device, from, from_device, size_bytes));
}
void clear_bytes(const Ctx& ctx, Device device, void* data, size_t size_bytes) {
  if (size_bytes > 0) BG_DISPATCH(device, clear_bytes(ctx, data, size_bytes));
}

Staging::Staging(const Ctx& ctx, size_t size_bytes) : size_(size_bytes), device_(ctx.device) {
  if (size_bytes > 0) BG_DISPATCH(device_, allocate_staging(size_bytes, data_));
}
Staging::~Staging() {
  if (data_ == nullptr) return;
  if (device_ == Device::cpu) {
    cpu::release_staging(data_);
    return;
  }
  if constexpr (kBuiltWithCuda) BG_DISPATCH(device_, release_staging(data_));
}
Staging& Staging::operator=(Staging&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  return *this;
}
void enqueue_copy(const Ctx& ctx, void* to, const void* from, size_t size_bytes) {
  if (size_bytes > 0) BG_DISPATCH(ctx.device, enqueue_copy(ctx, to, from, size_bytes));
}

}  // namespace bg
