#include "ranks/socket_mesh.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
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

// Moves exactly `size` bytes over a socket that does not block, all of them before `deadline`.
bool move_all(int handle, void* data, size_t size, short direction, Clock::time_point deadline) {
  char* at = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t n = direction == POLLIN ? recv(handle, at, size, 0) : send(handle, at, size, MSG_NOSIGNAL);
    if (n > 0) {
      at += n, size -= static_cast<size_t>(n);
      continue;
    }
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) return false;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waiting{handle, direction, 0};
    if (left <= 0 || (poll(&waiting, 1, static_cast<int>(left)) < 0 && errno != EINTR)) return false;
  }
  return true;
}

// 0, or the error of connecting a socket that does not block.
int connect_before(int handle, const sockaddr* address, socklen_t length, Clock::time_point deadline) {
  if (connect(handle, address, length) == 0) return 0;
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd waiting{handle, POLLOUT, 0};
    const int ready = left <= 0 ? 0 : poll(&waiting, 1, static_cast<int>(left));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno;
    if (ready == 0) return ETIMEDOUT;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(handle, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
  }
}

// The greeting: three messages of fixed size, and nothing of them is looked at before the proof. Whoever takes a call
// sends a fresh number first; proofs are over the fresh numbers of both, the ranks of both, and the port that was
// called, so that neither an old greeting nor one that is passed on from elsewhere proves anything.
using Fresh = std::array<uint8_t, 32>;
constexpr std::array<char, 8> kMagic{'b', 'g', 'r', 'a', 'n', 'k', 's', '2'};
struct Challenge {
  std::array<char, 8> magic = kMagic;
  Fresh fresh{};
};
struct Claim {
  std::array<char, 8> magic = kMagic;
  int64_t rank = 0;
  Fresh fresh{};
  Sha256 proof{};
};

constexpr double kHelloSeconds = 5;  // for the whole greeting
constexpr size_t kMaxGuests = 128;   // callers without a proof; beyond these the oldest leaves

Fresh fresh_number() {
  Fresh out;
  size_t at = 0;
  while (at < out.size()) {
    const ssize_t n = getrandom(out.data() + at, out.size() - at, 0);
    if (n < 0 && errno != EINTR) throw SystemError("no random numbers: " + said(errno));
    if (n > 0) at += static_cast<size_t>(n);
  }
  return out;
}

// One call as both ends see it.
struct Call {
  int64_t from = 0, to = 0, port = 0;
  Fresh taker{}, caller{};

  Sha256 proof(const std::string& key, const char* side) const {
    std::vector<uint8_t> text(kMagic.begin(), kMagic.end());
    text.insert(text.end(), side, side + std::strlen(side) + 1);
    for (const int64_t number : {from, to, port})
      for (int i = 0; i < 8; ++i) text.push_back(static_cast<uint8_t>(static_cast<uint64_t>(number) >> (8 * i)));
    text.insert(text.end(), taker.begin(), taker.end());
    text.insert(text.end(), caller.begin(), caller.end());
    return hmac_sha256({reinterpret_cast<const uint8_t*>(key.data()), key.size()}, text);
  }
};

// A caller that has not proved anything yet.
struct Guest {
  int handle;
  Clock::time_point deadline;
  Fresh fresh;
  std::array<char, sizeof(Claim)> said{};
  size_t heard = 0;
};

bool has_left(int handle) {
  char byte;
  const ssize_t n = recv(handle, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

}  // namespace

Listener::Listener(const std::string& host) {
  const AddressList list(host, 0, true);
  handle_ = socket(list.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (handle_ < 0) throw SystemError("no socket: " + said(errno));
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (bind(handle_, list.first->ai_addr, list.first->ai_addrlen) != 0 || listen(handle_, 1024) != 0 ||
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
  const auto end = Clock::now() + seconds(timeout_s);
  // Whether rank `peer` answers on this new connection, before `deadline`.
  const auto greet = [&](int handle, int64_t peer, int port, Clock::time_point deadline) {
    Challenge challenge;
    if (!move_all(handle, &challenge, sizeof(challenge), POLLIN, deadline) || challenge.magic != kMagic) return false;
    Claim claim;
    claim.rank = rank;
    claim.fresh = fresh_number();
    const Call call{rank, peer, port, challenge.fresh, claim.fresh};
    claim.proof = call.proof(key, "caller");
    Sha256 answer;
    return move_all(handle, &claim, sizeof(claim), POLLOUT, deadline) &&
           move_all(handle, &answer, sizeof(answer), POLLIN, deadline) &&
           equal_in_constant_time(answer, call.proof(key, "taker"));
  };
  // The rank that the guest has proved to be; -1: none.
  const auto proved = [&](const Guest& guest) {
    Claim claim;
    std::memcpy(&claim, guest.said.data(), sizeof(claim));
    const Call call{claim.rank, rank, listener.port(), guest.fresh, claim.fresh};
    if (!equal_in_constant_time(claim.proof, call.proof(key, "caller")) || claim.rank <= rank || claim.rank >= world)
      return int64_t{-1};
    Sha256 answer = call.proof(key, "taker");
    return move_all(guest.handle, &answer, sizeof(answer), POLLOUT, Clock::now()) ? claim.rank : int64_t{-1};
  };
  const auto keep = [&](int64_t peer, int handle) {
    const int one = 1;
    setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    handles_[static_cast<size_t>(peer)] = handle;
  };
  const auto missing = [&] {
    std::string names;
    for (int64_t r = 0; r < world; ++r)
      if (r != rank && handles_[static_cast<size_t>(r)] < 0) names += (names.empty() ? "" : ", ") + std::to_string(r);
    return names;
  };
  std::deque<Guest> guests;
  const auto leave = [&] {
    for (const Guest& guest : guests) close(guest.handle);
  };
  try {
    for (int64_t peer = 0; peer < rank; ++peer) {
      const Peer& at = peers[static_cast<size_t>(peer)];
      for (std::string why = "refused";;) {
        const AddressList list(at.host, at.port, false);
        const int handle = socket(list.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (handle < 0) throw SystemError("no socket: " + said(errno));
        const auto deadline = std::min(end, Clock::now() + seconds(kHelloSeconds));
        const int error = connect_before(handle, list.first->ai_addr, list.first->ai_addrlen, deadline);
        if (error == 0 && greet(handle, peer, at.port, deadline)) {
          keep(peer, handle);
          break;
        }
        why = error == 0 ? "somebody else answers" : said(error);
        close(handle);
        if (Clock::now() > end)
          throw SystemError(words("rank", peer, "does not answer at", at.host, "port", at.port, ":", why));
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
    while (!missing().empty()) {
      const auto now = Clock::now();
      if (now >= end) throw SystemError(words("ranks that did not come in", timeout_s, "s:", missing()));
      auto next = end;
      while (!guests.empty() && (guests.front().deadline <= now || guests.size() > kMaxGuests)) {  // oldest first
        close(guests.front().handle);
        guests.pop_front();
      }
      if (!guests.empty()) next = std::min(next, guests.front().deadline);
      std::vector<pollfd> waiting{{listener.handle(), POLLIN, 0}};
      for (const Guest& guest : guests) waiting.push_back({guest.handle, POLLIN, 0});
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next - now).count() + 1;
      if (poll(waiting.data(), waiting.size(), static_cast<int>(std::min<int64_t>(left, 1000))) < 0) {
        if (errno == EINTR) continue;
        throw SystemError("poll: " + said(errno));
      }
      size_t i = 0;
      std::erase_if(guests, [&](Guest& guest) {
        if (waiting[++i].revents == 0) return false;
        const ssize_t n = recv(guest.handle, guest.said.data() + guest.heard, guest.said.size() - guest.heard, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
        guest.heard += static_cast<size_t>(std::max<ssize_t>(n, 0));
        if (n > 0 && guest.heard < guest.said.size()) return false;
        const int64_t peer = n > 0 ? proved(guest) : -1;
        int* const kept = peer < 0 ? nullptr : &handles_[static_cast<size_t>(peer)];
        if (kept != nullptr && *kept >= 0 && has_left(*kept)) {  // it lost our answer and calls again
          close(*kept);
          *kept = -1;
        }
        if (kept != nullptr && *kept < 0)
          keep(peer, guest.handle);
        else
          close(guest.handle);
        return true;
      });
      if (waiting[0].revents == 0) continue;
      const int handle = accept4(listener.handle(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (handle < 0) continue;
      Challenge challenge;
      challenge.fresh = fresh_number();
      if (move_all(handle, &challenge, sizeof(challenge), POLLOUT, now))
        guests.push_back({handle, now + seconds(kHelloSeconds), challenge.fresh, {}, 0});
      else
        close(handle);
    }
    leave();
  } catch (...) {
    leave();
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
