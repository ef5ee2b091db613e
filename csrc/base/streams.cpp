#include "base/streams.h"

namespace bg {
namespace cpu {

void device_index(const Ctx&, int&) {}
void stream_handle(const Ctx&, StreamHandle&) {}
void let_wait(const Ctx&, StreamHandle) {}
void wait_for(const Ctx&, StreamHandle) {}
void wait_for_all(const Ctx&) {}

}  // namespace cpu

namespace cuda {  // base/cuda/streams.cu
void device_index(const Ctx& ctx, int& index);
void stream_handle(const Ctx& ctx, StreamHandle& stream);
void let_wait(const Ctx& ctx, StreamHandle stream);
void wait_for(const Ctx& ctx, StreamHandle stream);
void wait_for_all(const Ctx& ctx);
void read_device(int index, StreamHandle stream, void* to, const void* from, size_t size_bytes);
}  // namespace cuda

int device_index(const Ctx& ctx) {
  int index = 0;
  BG_DISPATCH(ctx.device, device_index(ctx, index));
  return index;
}
StreamHandle stream_handle(const Ctx& ctx) {
  StreamHandle stream = 0;
  BG_DISPATCH(ctx.device, stream_handle(ctx, stream));
  return stream;
}
void let_wait(const Ctx& ctx, StreamHandle stream) {
  BG_DISPATCH(ctx.device, let_wait(ctx, stream));
}
void wait_for(const Ctx& ctx, StreamHandle stream) {
  BG_DISPATCH(ctx.device, wait_for(ctx, stream));
}
void wait_for_all(const Ctx& ctx) {
  BG_DISPATCH(ctx.device, wait_for_all(ctx));
}

void read_device([[maybe_unused]] int index, [[maybe_unused]] StreamHandle stream, [[maybe_unused]] void* to,
                 [[maybe_unused]] const void* from, size_t size_bytes) {
  if (size_bytes > 0) BG_CUDA_CALL(read_device(index, stream, to, from, size_bytes));
}

}  // namespace bg
