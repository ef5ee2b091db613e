// Ranks as threads of one process, connected by sockets on this machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "ranks/comm.h"

namespace bg {

/// Runs body(comm) for every rank of a group at once; the first exception is thrown again when all have ended.
void run_ranks(int64_t world, const std::function<void(const std::shared_ptr<Comm>&)>& body);
/// The same with any way to connect: connect(rank) is called in the rank's own thread.
void run_ranks(int64_t world, const std::function<std::shared_ptr<Comm>(int64_t)>& connect,
               const std::function<void(const std::shared_ptr<Comm>&)>& body);

}  // namespace bg
