#include "base/device_measure.h"

#include <chrono>

namespace bg {
namespace cpu {

void time_on_device(const Ctx&, const std::function<void()>& work, std::vector<double>& seconds) {
  for (double& s : seconds) {
    const auto start = std::chrono::steady_clock::now();
    work();
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
}
void bytes_taken(const Ctx&, size_t& size_bytes) {
  size_bytes = 0;
}

}  // namespace cpu

namespace cuda {  // base/cuda/device_measure.cu
void time_on_device(const Ctx& ctx, const std::function<void()>& work, std::vector<double>& seconds);
void bytes_taken(const Ctx& ctx, size_t& size_bytes);
}  // namespace cuda

std::vector<double> time_on_device(const Ctx& ctx, const std::function<void()>& work, int calls) {
  BG_CHECK(calls >= 0, "cannot time", calls, "calls");
  std::vector<double> seconds(static_cast<size_t>(calls));
  BG_DISPATCH(ctx.device, time_on_device(ctx, work, seconds));
  return seconds;
}

size_t device_bytes_taken(const Ctx& ctx) {
  size_t size_bytes = 0;
  BG_DISPATCH(ctx.device, bytes_taken(ctx, size_bytes));
  return size_bytes;
}

}  // namespace bg
