// CUDA's side of base/device_measure.h: events on the context's stream.
#include "base/device_measure.h"

#include "base/cuda/context.h"

namespace bg::cuda {
namespace {

class Event {
 public:
  Event() { BG_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(const Ctx& ctx) const { BG_CUDA(cudaEventRecord(event_, stream_of(ctx))); }
  double seconds_since(const Event& start) const {
    float ms = 0;
    BG_CUDA(cudaEventElapsedTime(&ms, start.event_, event_));
    return 1e-3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

void time_on_device(const Ctx& ctx, const std::function<void()>& work, std::vector<double>& seconds) {
  ctx.cuda->use();
  const std::vector<Event> before(seconds.size()), after(seconds.size());
  // Writes of all scratch, a millisecond or two of them: the host gets ahead, and the cache forgets the operands.
  constexpr int kWrites = 64;
  for (int i = 0; i < kWrites; ++i)
    BG_CUDA(cudaMemsetAsync(ctx.cuda->scratch(Context::kScratchBytes), 0, Context::kScratchBytes, stream_of(ctx)));
  for (size_t i = 0; i < seconds.size(); ++i) {
    before[i].record(ctx);
    work();
    after[i].record(ctx);
  }
  BG_CUDA(cudaStreamSynchronize(stream_of(ctx)));
  for (size_t i = 0; i < seconds.size(); ++i) seconds[i] = after[i].seconds_since(before[i]);
}

void bytes_taken(const Ctx& ctx, size_t& size_bytes) {
  ctx.cuda->use();
  size_t free = 0, total = 0;
  BG_CUDA(cudaMemGetInfo(&free, &total));
  size_bytes = total - free;
}

}  // namespace bg::cuda
