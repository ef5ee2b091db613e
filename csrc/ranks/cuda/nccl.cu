// Ranks over NCCL: a stream of its own beside the context's, tied to it by events. Both may be recorded in one graph.
#include "ranks/cuda/nccl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "base/cuda/context.h"
#include "base/cuda_libraries.h"
#include "ranks/comm.h"

namespace bg::cuda {
namespace {

Nccl load() {
  const CudaLibrary library = open_nccl();
  if (library.handle == nullptr) throw SystemError("NCCL, which connects GPUs, was not found; tried: " + library.tried);
  Nccl n;
  const auto find = [&](auto& entry, const char* name) {
    entry = reinterpret_cast<std::remove_reference_t<decltype(entry)>>(dlsym(library.handle, name));
    if (entry == nullptr) throw SystemError(library.path + " has no " + name);
  };
  find(n.GetErrorString, "ncclGetErrorString");
  find(n.GetLastError, "ncclGetLastError");
  find(n.GetUniqueId, "ncclGetUniqueId");
  find(n.CommInitRank, "ncclCommInitRank");
  find(n.CommAbort, "ncclCommAbort");
  find(n.AllReduce, "ncclAllReduce");
  find(n.AllGather, "ncclAllGather");
  find(n.Broadcast, "ncclBroadcast");
  return n;
}

NcclType type_of(DType dtype) {
  BG_CHECK(dtype == DType::f32 || dtype == DType::f64, "ranks add up float32 and float64, got", name_of(dtype));
  return dtype == DType::f32 ? kNcclFloat32 : kNcclFloat64;
}

class NcclGroup final : public Comm {
 public:
  NcclGroup(const Ctx& ctx, int64_t rank, int64_t world, std::span<const uint8_t> unique_id)
      : Comm(rank, world), context_(ctx.cuda) {
    NcclId id;
    BG_CHECK(unique_id.size() == sizeof(id.internal), "an NCCL id has", sizeof(id.internal), "bytes, got",
             unique_id.size());
    std::memcpy(id.internal, unique_id.data(), sizeof(id.internal));
    context_->use();
    BG_NCCL(nccl().CommInitRank(&comm_, static_cast<int>(world), id, static_cast<int>(rank)), nullptr);
    int least = 0, greatest = 0;
    BG_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    // First in line for free multiprocessors: a bucket that waits makes every rank wait.
    BG_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, greatest));
    BG_CUDA(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
    BG_CUDA(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming));
  }

  // Abort, since Destroy may wait for ranks that are gone: ranks that part in peace have waited for their work.
  ~NcclGroup() override {
    cudaSetDevice(context_->device());
    nccl().CommAbort(comm_);
    cudaEventDestroy(done_);
    cudaEventDestroy(ready_);
    cudaStreamDestroy(stream_);
  }

  void all_reduce(Tensor x) override {
    check(x, 1);
    after_context();
    BG_NCCL(nccl().AllReduce(x.data(), x.data(), static_cast<size_t>(x.numel()), type_of(x.dtype()), kNcclSum, comm_,
                             stream_),
            comm_);
  }
  void all_gather(Tensor x) override {
    check(x, world());
    after_context();
    const size_t part = x.size_bytes() / static_cast<size_t>(world());
    const char* const mine = static_cast<const char*>(x.data()) + static_cast<size_t>(rank()) * part;
    BG_NCCL(nccl().AllGather(mine, x.data(), part, kNcclUint8, comm_, stream_), comm_);
  }
  void broadcast(Tensor x) override {
    check(x, 1);
    after_context();
    BG_NCCL(nccl().Broadcast(x.data(), x.data(), x.size_bytes(), kNcclUint8, 0, comm_, stream_), comm_);
  }
  void join() override {
    BG_CUDA(cudaEventRecord(done_, stream_));
    BG_CUDA(cudaStreamWaitEvent(context_->stream(), done_, 0));
  }

 private:
  void after_context() {
    BG_CUDA(cudaEventRecord(ready_, context_->stream()));
    BG_CUDA(cudaStreamWaitEvent(stream_, ready_, 0));
  }

  std::shared_ptr<Context> context_;
  NcclComm comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr, done_ = nullptr;
};

}  // namespace

const Nccl& nccl() {
  // NVLink multicast may put GPUs that others share out of service; who wants it sets NCCL_NVLS_ENABLE.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
  static const Nccl n = load();
  return n;
}

void nccl_failed(const char* file, int line, const char* expression, NcclResult result, NcclComm comm) {
  std::string path(file);
  if (const auto at = path.rfind("csrc/"); at != std::string::npos) path = path.substr(at);
  const char* const more = nccl().GetLastError(comm);
  throw SystemError(words("NCCL:", nccl().GetErrorString(result)) +
                    (more != nullptr && *more != 0 ? words(":", more) : "") + "  [" + expression + ", " + path + ":" +
                    std::to_string(line) + "]");
}

void nccl_unique_id(std::vector<uint8_t>& out) {
  NcclId id;
  BG_NCCL(nccl().GetUniqueId(&id), nullptr);
  out.assign(id.internal, id.internal + sizeof(id.internal));
}

void make_nccl_comm(const Ctx& ctx, int64_t rank, int64_t world, std::span<const uint8_t> unique_id,
                    std::shared_ptr<Comm>& out) {
  out = std::make_shared<NcclGroup>(ctx, rank, world, unique_id);
}

}  // namespace bg::cuda
