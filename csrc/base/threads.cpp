#include "base/threads.h"

#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "base/check.h"

namespace bg {
namespace {
thread_local bool inside_task = false;

int available_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  const int n = static_cast<int>(std::thread::hardware_concurrency());
  return n > 0 ? n : 1;
}

// How long a thread looks for work, or for the end of it, before it sleeps: about 30 microseconds. Loops of one step
// follow each other faster than that, and waking a sleeper takes as long.
constexpr int kSpins = 1500;

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}
}  // namespace

struct ThreadPool::Impl {
  std::vector<std::thread> workers;
  int spins = 0;
  std::mutex mutex;
  std::condition_variable wake, done;
  std::atomic<uint64_t> generation{0};  // counts loops; changes under the mutex
  std::atomic<int> active{0};           // workers inside the current loop; grows under the mutex only
  bool open = false;                    // workers may join the current loop
  bool stop = false;
  std::mutex caller;  // one loop at a time when several Python threads share the pool

  int64_t n = 0;
  void (*call)(void*, int64_t) = nullptr;
  void* f = nullptr;
  std::atomic<int64_t> next{0};
  std::exception_ptr error;

  void work() {
    inside_task = true;
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) {
      try {
        call(f, i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        next.store(n);
      }
    }
    inside_task = false;
  }
  void loop() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < spins && generation.load(std::memory_order_acquire) == seen; ++i) pause();
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return stop || generation != seen; });
        if (stop) return;
        seen = generation;
        if (!open) continue;  // the loop ended before this worker woke: nobody waits for it
        ++active;
      }
      work();
      if (--active == 0) {
        std::lock_guard lock(mutex);
        done.notify_one();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  BG_CHECK(threads >= 0 && threads <= 4096, "threads must be 0 (all cores) to 4096, got", threads);
  if (threads == 0) threads = available_cores();
  if (threads <= available_cores()) impl_->spins = kSpins;  // spinning on a core that another thread needs is waste
  for (int i = 1; i < threads; ++i) impl_->workers.emplace_back([this] { impl_->loop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->wake.notify_all();
  for (auto& w : impl_->workers) w.join();
}

int ThreadPool::size() const {
  return static_cast<int>(impl_->workers.size()) + 1;
}

void ThreadPool::run(int64_t n, void (*call)(void*, int64_t), void* f) {
  if (n <= 0) return;
  if (n == 1 || inside_task || impl_->workers.empty()) {
    for (int64_t i = 0; i < n; ++i) call(f, i);
    return;
  }
  std::lock_guard one_caller(impl_->caller);
  {
    std::lock_guard lock(impl_->mutex);
    impl_->n = n;
    impl_->call = call;
    impl_->f = f;
    impl_->next.store(0);
    impl_->error = nullptr;
    impl_->open = true;
    ++impl_->generation;
  }
  impl_->wake.notify_all();
  impl_->work();
  {
    std::lock_guard lock(impl_->mutex);
    impl_->open = false;
  }
  for (int i = 0; i < impl_->spins && impl_->active.load(std::memory_order_acquire) != 0; ++i) pause();
  std::unique_lock lock(impl_->mutex);
  impl_->done.wait(lock, [&] { return impl_->active == 0; });
  if (impl_->error) std::rethrow_exception(impl_->error);
}

}  // namespace bg
