// How processes are wired up by TCP: every rank holds one connection to every other, and moves bytes over all at once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ranks/comm.h"

namespace bg {

class SocketMesh {
 public:
  /// Connects to all lower ranks and takes the connections of all higher ones. See make_socket_comm().
  SocketMesh(const Listener& listener, int64_t rank, std::span<const Peer> peers, const std::string& key,
             double timeout_s);
  ~SocketMesh();
  SocketMesh(const SocketMesh&) = delete;
  SocketMesh& operator=(const SocketMesh&) = delete;

  int64_t rank() const { return rank_; }
  int64_t world() const { return static_cast<int64_t>(handles_.size()); }

  /// What goes to one peer and comes from it.
  struct Transfer {
    int64_t peer;
    const char* out;
    size_t out_bytes;
    char* in;
    size_t in_bytes;
  };
  /// Sends and receives everything, in whatever order the wires allow. Throws SystemError naming the rank that left.
  void exchange(std::span<const Transfer> transfers);
  /// Ends all connections; an exchange under way throws. Any thread may call it.
  void hang_up() noexcept;

 private:
  int64_t rank_;
  std::vector<int> handles_;  // by rank; -1 for itself
};

}  // namespace bg
