// How our work on a GPU and that of other programs in the process wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/ctx.h"

namespace bg {

/// A cudaStream_t as a number. 0 and 1 are the default stream that waits for others, 2 that of the calling thread.
using StreamHandle = uintptr_t;

// On the CPU nothing is ever pending: these do nothing and give 0 there.

/// The context's GPU among the visible ones.
int device_index(const Ctx& ctx);
StreamHandle stream_handle(const Ctx& ctx);
/// Makes `stream` (of the context's GPU) wait for everything enqueued on the context's stream. Returns at once.
void let_wait(const Ctx& ctx, StreamHandle stream);
/// Makes the context's stream wait for everything enqueued on `stream`. Returns at once.
void wait_for(const Ctx& ctx, StreamHandle stream);
/// Waits for everything enqueued on the context's GPU, by anybody.
void wait_for_all(const Ctx& ctx);

/// Copies bytes of GPU `index` into host memory, after what is enqueued on `stream` of that GPU, and waits. Needs no
/// context: the memory belongs to another library. Throws InvalidArgument in a build without CUDA.
void read_device(int index, StreamHandle stream, void* to, const void* from, size_t size_bytes);

}  // namespace bg
