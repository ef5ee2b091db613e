// How work is spread over cores: a fixed list of tasks, claimed by whichever thread is free. The list depends on
// shapes alone, never on the number of threads, and no two tasks write the same element, so results have the same
// bits at any thread count.
#pragma once

#include <cstdint>
#include <memory>

namespace bg {

class ThreadPool {
 public:
  /// threads >= 1, the caller included; 0 means one per available core.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Runs f(i) for i in 0..n-1, in any order, and returns when all are done; rethrows the first exception.
  /// A call from inside a task runs its loop on the calling thread.
  template <class F>
  void parallel_for(int64_t n, F&& f) {
    run(
        n, [](void* g, int64_t i) { (*static_cast<std::remove_reference_t<F>*>(g))(i); },
        const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  void run(int64_t n, void (*call)(void*, int64_t), void* f);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace bg
