// Work that a device repeats many times: recorded once, then replayed with one call (a CUDA graph).
#pragma once

#include <functional>
#include <memory>

#include "base/ctx.h"

namespace bg {

/// `work` must enqueue the same calls on the same memory each time: no waiting, no allocation, and numbers that change
/// from time to time only through memory. It should have run once before, so that libraries are loaded. On the CPU
/// nothing is recorded: replay() does the work.
class Recording {
 public:
  Recording() = default;
  Recording(const Ctx& ctx, std::function<void()> work);
  explicit operator bool() const { return static_cast<bool>(replay_); }
  void replay() const { replay_(); }

 private:
  std::function<void()> replay_;
};

}  // namespace bg
