// Ranks over TCP: each sums its own part of a tensor, in the order of ranks, and hands it to the others. One thread
// does that while the caller goes on.
#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

#include "ranks/comm.h"
#include "ranks/socket_mesh.h"

namespace bg {
namespace {

class SocketGroup final : public Comm {
 public:
  SocketGroup(const Listener& listener, int64_t rank, std::span<const Peer> peers, const std::string& key,
              double timeout_s)
      : Comm(rank, static_cast<int64_t>(peers.size())),
        mesh_(listener, rank, peers, key, timeout_s),
        thread_([this] { work(); }) {}

  ~SocketGroup() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    mesh_.hang_up();  // whatever is still under way ends
    thread_.join();
  }

  void all_reduce(Tensor x) override {
    check(x, 1);
    BG_FLOATS(x.dtype(), T, queue([this, x] { sum<T>(x); }));
  }
  void all_gather(Tensor x) override {
    check(x, world());
    queue([this, x] {
      const auto part = x.size_bytes() / static_cast<size_t>(world());
      gather(static_cast<char*>(x.data()), [part](int64_t r) {
        return std::pair{static_cast<size_t>(r) * part, part};
      });
    });
  }
  void broadcast(Tensor x) override {
    check(x, 1);
    queue([this, x] {
      char* const data = static_cast<char*>(x.data());
      std::vector<SocketMesh::Transfer> transfers;
      if (rank() == 0)
        for (int64_t r = 1; r < world(); ++r) transfers.push_back({r, data, x.size_bytes(), nullptr, 0});
      else
        transfers.push_back({0, nullptr, 0, data, x.size_bytes()});
      mesh_.exchange(transfers);
    });
  }
  void join() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return (queue_.empty() && !busy_) || error_; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  // Elements lo..hi-1 of n that rank r sums.
  std::pair<int64_t, int64_t> part_of(int64_t r, int64_t n) const { return {n * r / world(), n * (r + 1) / world()}; }

  template <class T>
  void sum(Tensor x) {
    T* const data = x.ptr<T>();
    const int64_t n = x.numel();
    const auto [lo, hi] = part_of(rank(), n);
    const auto count = static_cast<size_t>(hi - lo);
    scratch_.resize(std::max(scratch_.size(), count * static_cast<size_t>(world()) * sizeof(T)));
    T* const theirs = reinterpret_cast<T*>(scratch_.data());
    std::vector<SocketMesh::Transfer> transfers;
    for (int64_t r = 0; r < world(); ++r) {
      if (r == rank()) continue;
      const auto [from, to] = part_of(r, n);
      transfers.push_back({r, reinterpret_cast<const char*>(data + from), static_cast<size_t>(to - from) * sizeof(T),
                           reinterpret_cast<char*>(theirs + static_cast<size_t>(r) * count), count * sizeof(T)});
    }
    mesh_.exchange(transfers);
    std::copy_n(data + lo, count, theirs + static_cast<size_t>(rank()) * count);
    for (size_t i = 0; i < count; ++i) {
      T total = theirs[i];
      for (int64_t r = 1; r < world(); ++r) total += theirs[static_cast<size_t>(r) * count + i];
      data[lo + static_cast<int64_t>(i)] = total;
    }
    gather(reinterpret_cast<char*>(data), [&](int64_t r) {
      const auto [from, to] = part_of(r, n);
      return std::pair{static_cast<size_t>(from) * sizeof(T), static_cast<size_t>(to - from) * sizeof(T)};
    });
  }

  // Everybody's part to everybody; place(r): offset and size in bytes of rank r's.
  void gather(char* data, const std::function<std::pair<size_t, size_t>(int64_t)>& place) {
    const auto [at, size] = place(rank());
    std::vector<SocketMesh::Transfer> transfers;
    for (int64_t r = 0; r < world(); ++r) {
      if (r == rank()) continue;
      const auto [to, length] = place(r);
      transfers.push_back({r, data + at, size, data + to, length});
    }
    mesh_.exchange(transfers);
  }

  void queue(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      if (error_) std::rethrow_exception(error_);
      queue_.push_back(std::move(task));
    }
    changed_.notify_all();
  }

  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      const std::function<void()> task = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
      lock.unlock();
      std::exception_ptr error;
      try {
        task();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      busy_ = false;
      if (error) {
        error_ = error;
        queue_.clear();
      }
      changed_.notify_all();
    }
  }

  SocketMesh mesh_;
  std::vector<char> scratch_;  // the thread's own
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::exception_ptr error_;  // of the first call that failed; later ones fail alike
  bool busy_ = false, stop_ = false;
  std::thread thread_;
};

}  // namespace

std::shared_ptr<Comm> make_socket_comm(const Listener& listener, int64_t rank, std::span<const Peer> peers,
                                       const std::string& key, double timeout_s) {
  return std::make_shared<SocketGroup>(listener, rank, peers, key, timeout_s);
}

}  // namespace bg
