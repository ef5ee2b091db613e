// How the ranks of one run add up and hand round tensors, while the model's own work goes on.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// One rank's end of a group of processes. Calls are queued on a stream (on the CPU: a thread) of the group's own: each
/// begins when the work put on the context before it is done, and runs beside the work that follows. All ranks make the
/// same calls in the same order on tensors of equal sizes; afterwards all hold the same bits, and two equal runs give
/// equal bits. Tensors are contiguous and lie on the context's device.
class Comm {
 public:
  virtual ~Comm() = default;
  int64_t rank() const { return rank_; }
  int64_t world() const { return world_; }

  /// x = sum of all ranks' x, in place; float32 or float64.
  virtual void all_reduce(Tensor x) = 0;
  /// x (world * n): part r, elements r n .. (r + 1) n - 1, is rank r's to give; afterwards every rank has all parts.
  virtual void all_gather(Tensor x) = 0;
  /// x = rank 0's x.
  virtual void broadcast(Tensor x) = 0;
  /// The context's further work waits for all calls so far. On the CPU the caller waits, and SystemError names the rank
  /// that left.
  virtual void join() = 0;

 protected:
  Comm(int64_t rank, int64_t world);
  void check(Tensor x, int64_t parts) const;

 private:
  int64_t rank_, world_;
};

/// A new NCCL id, which rank 0 makes and every rank hands to make_nccl_comm(). SystemError where NCCL is not found.
std::vector<uint8_t> nccl_unique_id();
/// Over NCCL on the context's GPU. Returns when all `world` ranks have called it. The calls may be part of a Recording.
std::shared_ptr<Comm> make_nccl_comm(const Ctx& ctx, int64_t rank, int64_t world, std::span<const uint8_t> unique_id);

/// A TCP port of this process that other ranks connect to.
class Listener {
 public:
  /// Binds a free port of `host` (a name or address of this machine; "" means all its addresses).
  explicit Listener(const std::string& host);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  int port() const { return port_; }
  int handle() const { return handle_; }

 private:
  int handle_ = -1, port_ = 0;
};

/// Where a rank listens.
struct Peer {
  std::string host;
  int port = 0;
};
/// Over TCP, for tensors in host memory: every rank connects to every other. `peers` by rank; `key` is the same on all
/// ranks, and strangers without it are turned away. Throws SystemError naming the ranks that did not come in
/// `timeout_s`.
std::shared_ptr<Comm> make_socket_comm(const Listener& listener, int64_t rank, std::span<const Peer> peers,
                                       const std::string& key, double timeout_s);

}  // namespace bg
