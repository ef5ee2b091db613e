// CUDA's side of base/streams.h.
#include "base/streams.h"

#include "base/cuda/context.h"

namespace bg::cuda {
namespace {

cudaStream_t stream_named(StreamHandle stream) {
  return stream == 0 ? cudaStreamLegacy : reinterpret_cast<cudaStream_t>(stream);
}

// Makes `after` wait for what is on `before` now.
void order(cudaStream_t before, cudaStream_t after) {
  cudaEvent_t event = nullptr;
  BG_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  cudaError_t error = cudaEventRecord(event, before);
  if (error == cudaSuccess) error = cudaStreamWaitEvent(after, event, 0);
  cudaEventDestroy(event);  // goes when it has been waited for
  BG_CUDA(error);
}

// Another library may have its own current GPU in this thread: it keeps it.
class Visit {
 public:
  explicit Visit(int index) {
    BG_CUDA(cudaGetDevice(&before_));
    BG_CUDA(cudaSetDevice(index));
  }
  ~Visit() { cudaSetDevice(before_); }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  int before_ = 0;
};

}  // namespace

void device_index(const Ctx& ctx, int& index) {
  index = ctx.cuda->device();
}

void stream_handle(const Ctx& ctx, StreamHandle& stream) {
  stream = reinterpret_cast<StreamHandle>(stream_of(ctx));
}

void let_wait(const Ctx& ctx, StreamHandle stream) {
  const Visit visit(ctx.cuda->device());
  order(stream_of(ctx), stream_named(stream));
}

void wait_for(const Ctx& ctx, StreamHandle stream) {
  const Visit visit(ctx.cuda->device());
  order(stream_named(stream), stream_of(ctx));
}

void wait_for_all(const Ctx& ctx) {
  const Visit visit(ctx.cuda->device());
  BG_CUDA(cudaDeviceSynchronize());
}

void read_device(int index, StreamHandle stream, void* to, const void* from, size_t size_bytes) {
  const Visit visit(index);
  const cudaStream_t after = stream_named(stream);
  BG_CUDA(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToHost, after));
  BG_CUDA(cudaStreamSynchronize(after));
}

}  // namespace bg::cuda
