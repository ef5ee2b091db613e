// CUDA's side of base/memory.h, and the context.
#include "base/memory.h"

#include <algorithm>

#include "base/cuda/context.h"

namespace bg::cuda {

void failed(const char* file, int line, const char* expression, cudaError_t error) {
  std::string path(file);
  if (const auto at = path.rfind("csrc/"); at != std::string::npos) path = path.substr(at);
  cudaGetLastError();  // an error that can be cleared is
  throw SystemError(words("CUDA:", cudaGetErrorString(error), "(" + std::string(cudaGetErrorName(error)) + ")") +
                    "  [" + expression + ", " + path + ":" + std::to_string(line) + "]");
}
void launch_failed(const char* file, int line, const char* kernel, cudaError_t error) {
  failed(file, line, words("launch of", kernel).c_str(), error);
}

namespace {

std::string gigabytes(size_t size_bytes) {
  return words(static_cast<double>(size_bytes / 10000000) / 100) + " GB";
}

// Why no GPU can be used, or "".
std::string why_unusable(int& count) {
  count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  if (error == cudaErrorInsufficientDriver)
    return "no NVIDIA driver, or one too old for CUDA 13 (580 or later is needed)";
  if (error == cudaErrorNoDevice || error == cudaSuccess) return "no GPU is visible (CUDA_VISIBLE_DEVICES?)";
  return words("CUDA says:", cudaGetErrorString(error));
}

std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

}  // namespace

Context::Context(int device) : device_(device) {
  int count = 0;
  const std::string unusable = why_unusable(count);
  if (!unusable.empty()) throw SystemError("device cuda: " + unusable + "; `bytegolf doctor` says more");
  BG_CHECK(device >= 0 && device < count, "GPU", device, "of", count, "visible ones");
  BG_CUDA(cudaSetDevice(device));
  BG_CUDA(cudaGetDeviceProperties(&properties_, device));
  if (properties_.major != 9 || properties_.minor != 0)
    throw SystemError(words("device cuda:", properties_.name, "has compute capability",
                            std::to_string(properties_.major) + "." + std::to_string(properties_.minor) +
                                "; the kernels of this build are for 9.0 (H100, H200)"));
  BG_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  BG_CUDA(cudaMalloc(&scratch_, kScratchBytes));
  BG_CUDA(cudaMalloc(&gemm_workspace_, kGemmWorkspaceBytes));
}

Context::~Context() {
  gemm_state.reset();
  cudaFree(gemm_workspace_);
  cudaFree(scratch_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void Context::use() const {
  BG_CUDA(cudaSetDevice(device_));
}

void* Context::scratch(size_t size_bytes) const {
  BG_CHECK(size_bytes <= kScratchBytes, "an op asked for", size_bytes, "bytes of scratch, there are", kScratchBytes);
  return scratch_;
}

void open(Ctx& ctx, int index) {
  ctx.cuda = std::make_shared<Context>(index);
}

void describe(GpuInfo& info) {
  int driver = 0, runtime = 0, count = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) info.driver = version(driver);
  if (cudaRuntimeGetVersion(&runtime) == cudaSuccess) info.runtime = version(runtime);
  info.unusable = why_unusable(count);
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    GpuInfo::Gpu gpu;
    gpu.name = p.name;
    gpu.capability = std::to_string(p.major) + "." + std::to_string(p.minor);
    gpu.total_bytes = p.totalGlobalMem;
    info.gpus.push_back(gpu);
  }
  const bool any = std::any_of(info.gpus.begin(), info.gpus.end(), [](const auto& g) { return g.capability == "9.0"; });
  if (info.unusable.empty() && !any)
    info.unusable = "no visible GPU has compute capability 9.0 (H100, H200), which the kernels of this build are for";
}

void allocate(size_t size_bytes, void*& data) {
  const cudaError_t error = cudaMalloc(&data, size_bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw SystemError(words("out of memory: asked for", gigabytes(size_bytes), "on the GPU, free are", gigabytes(free),
                            "of", gigabytes(total)));
  }
  BG_CUDA(error);
  BG_CUDA(cudaMemset(data, 0, size_bytes));
  BG_CUDA(cudaStreamSynchronize(nullptr));  // other streams do not wait for this one
}

void free_bytes(const Ctx& ctx, size_t& bytes) {
  ctx.cuda->use();
  size_t total = 0;
  BG_CUDA(cudaMemGetInfo(&bytes, &total));
}

void release(void* data) noexcept {
  cudaFree(data);
}

void synchronise(const Ctx& ctx) {
  BG_CUDA(cudaStreamSynchronize(stream_of(ctx)));
}

void copy_bytes(const Ctx& ctx, void* to, Device to_device, const void* from, Device from_device, size_t size_bytes) {
  ctx.cuda->use();
  BG_CUDA(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDefault, stream_of(ctx)));
  if (to_device == Device::cpu || from_device == Device::cpu) cuda::synchronise(ctx);
}

void allocate_staging(size_t size_bytes, void*& data) {
  const cudaError_t error = cudaMallocHost(&data, size_bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw SystemError(words("out of memory: asked for", gigabytes(size_bytes), "of pinned memory on the host"));
  }
  BG_CUDA(error);
}

void release_staging(void* data) noexcept {
  cudaFreeHost(data);
}

void enqueue_copy(const Ctx& ctx, void* to, const void* from, size_t size_bytes) {
  BG_CUDA(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDefault, stream_of(ctx)));
}

void clear_bytes(const Ctx& ctx, void* data, size_t size_bytes) {
  BG_CUDA(cudaMemsetAsync(data, 0, size_bytes, stream_of(ctx)));
}

}  // namespace bg::cuda
