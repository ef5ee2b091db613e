#include "testing/ranks.h"

#include <exception>
#include <thread>
#include <vector>

namespace bg {

void run_ranks(int64_t world, const std::function<std::shared_ptr<Comm>(int64_t)>& connect,
               const std::function<void(const std::shared_ptr<Comm>&)>& body) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < world; ++r)
    threads.emplace_back([&, r] {
      try {
        body(connect(r));
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

void run_ranks(int64_t world, const std::function<void(const std::shared_ptr<Comm>&)>& body) {
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<Peer> peers;
  for (int64_t r = 0; r < world; ++r) {
    listeners.push_back(std::make_unique<Listener>("127.0.0.1"));
    peers.push_back({"127.0.0.1", listeners.back()->port()});
  }
  run_ranks(
      world, [&](int64_t r) { return make_socket_comm(*listeners[static_cast<size_t>(r)], r, peers, "test", 20); },
      body);
}

}  // namespace bg
