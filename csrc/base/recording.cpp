#include "base/recording.h"

#include <utility>

#include "base/check.h"

namespace bg {
namespace cpu {
void record(const Ctx&, const std::function<void()>& work, std::function<void()>& replay) {
  replay = work;
}
}  // namespace cpu
namespace cuda {  // base/cuda/recording.cu
void record(const Ctx& ctx, const std::function<void()>& work, std::function<void()>& replay);
}

Recording::Recording(const Ctx& ctx, std::function<void()> work) {
  BG_DISPATCH(ctx.device, record(ctx, work, replay_));
}

}  // namespace bg
