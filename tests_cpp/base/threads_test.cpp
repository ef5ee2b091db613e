#include "base/threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/check.h"

namespace bg {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t n : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> count(static_cast<size_t>(n));
      pool.parallel_for(n, [&](int64_t i) { ++count[static_cast<size_t>(i)]; });
      for (const auto& c : count) ASSERT_EQ(c.load(), 1);
    }
  }
}

TEST(ThreadPool, LoopsFollowEachOtherWithoutLosingWork) {
  ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  for (int repeat = 0; repeat < 3000; ++repeat) {
    pool.parallel_for(4, [&](int64_t i) { sum += i; });
    if (repeat % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // workers fall asleep
  }
  EXPECT_EQ(sum.load(), 3000 * 6);
}

TEST(ThreadPool, RethrowsTheExceptionAndStaysUsable) {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(pool.parallel_for(100,
                                   [](int64_t i) {
                                     if (i == 3) throw std::runtime_error("three");
                                   }),
                 std::runtime_error);
    std::atomic<int> count{0};
    pool.parallel_for(10, [&](int64_t) { ++count; });
    EXPECT_EQ(count.load(), 10);
  }
}

TEST(ThreadPool, ALoopInsideATaskRunsThere) {
  ThreadPool pool(2);
  std::atomic<int> count{0};
  std::atomic<bool> moved{false};
  pool.parallel_for(4, [&](int64_t) {
    const auto self = std::this_thread::get_id();
    pool.parallel_for(5, [&](int64_t) {
      if (std::this_thread::get_id() != self) moved = true;
      ++count;
    });
  });
  EXPECT_EQ(count.load(), 20);
  EXPECT_FALSE(moved);
}

TEST(ThreadPool, SeveralCallersTakeTurns) {
  ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) pool.parallel_for(8, [&](int64_t i) { sum += i; });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(sum.load(), 3 * 200 * 28);
}

TEST(ThreadPool, RefusesSenselessSizes) {
  EXPECT_THROW(ThreadPool(-1), InvalidArgument);
  EXPECT_THROW(ThreadPool(5000), InvalidArgument);
  EXPECT_GE(ThreadPool(0).size(), 1);
}

}  // namespace
}  // namespace bg
