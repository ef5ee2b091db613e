#include "ranks/socket_mesh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "base/hash.h"

namespace bg {
namespace {

using Clock = std::chrono::steady_clock;

std::string said(int error) {
  return std::strerror(error);
}

struct AddressList {
  addrinfo* first = nullptr;
  AddressList(const std::string& host, int port, bool passive) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = passive ? AI_PASSIVE : 0;
    const int error = getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &first);
    if (error != 0) throw SystemError(words("address of", host, "port", port, ":", gai_strerror(error)));
  }
  ~AddressList() { freeaddrinfo(first); }
  AddressList(const AddressList&) = delete;
  AddressList& operator=(const AddressList&) = delete;
};

void set_blocking(int handle, bool blocking) {
  const int flags = fcntl(handle, F_GETFL, 0);
  fcntl(handle, F_SETFL, blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK);
}

void set_timeout(int handle, double seconds) {
  timeval t{};
  t.tv_sec = static_cast<time_t>(seconds);
  t.tv_usec = static_cast<suseconds_t>((seconds - static_cast<double>(t.tv_sec)) * 1e6);
  setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
  setsockopt(handle, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

bool send_all(int handle, const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = send(handle, at, size, MSG_NOSIGNAL);
    if (n <= 0) return false;
    at += n, size -= static_cast<size_t>(n);
  }
  return true;
}

bool receive_all(int handle, void* data, size_t size) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = recv(handle, at, size, 0);
    if (n <= 0) return false;
    at += n, size -= static_cast<size_t>(n);
  }
  return true;
}

// What a rank says first on a new connection, and is answered with.
struct Hello {
  char magic[8] = {'b', 'g', 'r', 'a', 'n', 'k', 's', '1'};
  Sha256 key{};
  int64_t rank = 0;
};

constexpr double kHelloSeconds = 5;  // a stranger that keeps quiet must not hold up the others

}  // namespace

Listener::Listener(const std::string& host) {
  const AddressList list(host, 0, true);
  handle_ = socket(list.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle_ < 0) throw SystemError("no socket: " + said(errno));
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (bind(handle_, list.first->ai_addr, list.first->ai_addrlen) != 0 || listen(handle_, 128) != 0 ||
      getsockname(handle_, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    const int error = errno;
    close(handle_);
    throw SystemError(words("cannot listen on", host.empty() ? "all addresses" : host, ":", said(error)));
  }
  port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                            : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

Listener::~Listener() {
  close(handle_);
}

SocketMesh::SocketMesh(const Listener& listener, int64_t rank, std::span<const Peer> peers, const std::string& key,
                       double timeout_s)
    : rank_(rank), handles_(peers.size(), -1) {
  const auto world = static_cast<int64_t>(peers.size());
  BG_CHECK(rank >= 0 && rank < world, "rank", rank, "of", world);
  const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_s));
  Hello hello;
  hello.key = sha256({reinterpret_cast<const uint8_t*>(key.data()), key.size()});
  hello.rank = rank;
  const auto greet = [&](int handle) {  // both say hello; the peer's rank, or -1 for a stranger
    set_timeout(handle, kHelloSeconds);
    Hello other;
    const bool known = send_all(handle, &hello, sizeof(hello)) && receive_all(handle, &other, sizeof(other)) &&
                       std::memcmp(hello.magic, other.magic, sizeof(hello.magic)) == 0 && hello.key == other.key;
    return known && other.rank >= 0 && other.rank < world && other.rank != rank ? other.rank : -1;
  };
  const auto keep = [&](int64_t peer, int handle) {
    const int one = 1;
    setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    set_blocking(handle, false);
    handles_[static_cast<size_t>(peer)] = handle;
  };
  const auto missing = [&] {
    std::string names;
    for (int64_t r = 0; r < world; ++r)
      if (r != rank && handles_[static_cast<size_t>(r)] < 0) names += (names.empty() ? "" : ", ") + std::to_string(r);
    return names;
  };
  try {
    for (int64_t peer = 0; peer < rank; ++peer) {
      const Peer& at = peers[static_cast<size_t>(peer)];
      for (std::string why = "refused";;) {
        const AddressList list(at.host, at.port, false);
        const int handle = socket(list.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (handle < 0) throw SystemError("no socket: " + said(errno));
        set_timeout(handle, kHelloSeconds);
        if (connect(handle, list.first->ai_addr, list.first->ai_addrlen) == 0) {
          if (greet(handle) == peer) {
            keep(peer, handle);
            break;
          }
          why = "somebody else answers";
        } else {
          why = said(errno);
        }
        close(handle);
        if (Clock::now() > end)
          throw SystemError(words("rank", peer, "does not answer at", at.host, "port", at.port, ":", why));
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
    while (!missing().empty()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
      pollfd waiting{listener.handle(), POLLIN, 0};
      if (left <= 0 || poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left, 1000))) < 0) {
        if (left > 0 && errno == EINTR) continue;
        throw SystemError(words("ranks that did not come in", timeout_s, "s:", missing()));
      }
      if (waiting.revents == 0) continue;
      const int handle = accept4(listener.handle(), nullptr, nullptr, SOCK_CLOEXEC);
      if (handle < 0) continue;
      const int64_t peer = greet(handle);
      if (peer > rank && handles_[static_cast<size_t>(peer)] < 0)
        keep(peer, handle);
      else
        close(handle);
    }
  } catch (...) {
    for (const int handle : handles_)
      if (handle >= 0) close(handle);
    throw;
  }
}

SocketMesh::~SocketMesh() {
  for (const int handle : handles_)
    if (handle >= 0) close(handle);
}

void SocketMesh::hang_up() noexcept {
  for (const int handle : handles_)
    if (handle >= 0) shutdown(handle, SHUT_RDWR);
}

void SocketMesh::exchange(std::span<const Transfer> transfers) {
  std::vector<Transfer> left(transfers.begin(), transfers.end());
  std::vector<pollfd> waiting(left.size());
  const auto gone = [](const Transfer& t, int error) {
    return SystemError(words("rank", t.peer, "left while data was under way:", error == 0 ? "closed" : said(error)));
  };
  for (;;) {
    std::erase_if(left, [](const Transfer& t) { return t.out_bytes == 0 && t.in_bytes == 0; });
    if (left.empty()) return;
    waiting.resize(left.size());
    for (size_t i = 0; i < left.size(); ++i) {
      const short wanted =
          static_cast<short>((left[i].in_bytes > 0 ? POLLIN : 0) | (left[i].out_bytes > 0 ? POLLOUT : 0));
      waiting[i] = {handles_[static_cast<size_t>(left[i].peer)], wanted, 0};
    }
    if (poll(waiting.data(), waiting.size(), -1) < 0) {
      if (errno == EINTR) continue;
      throw SystemError("poll: " + said(errno));
    }
    for (size_t i = 0; i < left.size(); ++i) {
      Transfer& t = left[i];
      if ((waiting[i].revents & POLLOUT) != 0) {
        const ssize_t n = send(waiting[i].fd, t.out, t.out_bytes, MSG_NOSIGNAL);
        if (n > 0)
          t.out += n, t.out_bytes -= static_cast<size_t>(n);
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
          throw gone(t, errno);
      }
      if ((waiting[i].revents & POLLIN) != 0 && t.in_bytes > 0) {
        const ssize_t n = recv(waiting[i].fd, t.in, t.in_bytes, 0);
        if (n > 0)
          t.in += n, t.in_bytes -= static_cast<size_t>(n);
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
          throw gone(t, n == 0 ? 0 : errno);
      } else if ((waiting[i].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
        throw gone(t, 0);
      }
    }
  }
}

}  // namespace bg
