// What a benchmark asks of a device: how long work took by the device's own clock, and how much memory is taken.
#pragma once

#include <functional>
#include <vector>

#include "base/ctx.h"

namespace bg {

/// Seconds of each of `calls` calls of `work`, as ctx.device measures them (on CUDA between events on the context's
/// stream). The device is kept busy while the first calls are enqueued and starts with a cold cache: what is timed is
/// its work, not the host's launches, unless those are slower throughout.
std::vector<double> time_on_device(const Ctx& ctx, const std::function<void()>& work, int calls);

/// Bytes of the GPU's memory that are taken, by whatever process; 0 on the CPU.
size_t device_bytes_taken(const Ctx& ctx);

}  // namespace bg
