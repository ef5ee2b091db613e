#include "ranks/comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>
#include <vector>

#include "testing/ranks.h"
#include "testing/tensors.h"

namespace bg {
namespace {

using ::testing::HasSubstr;

void each_rank(int64_t world, const std::function<void(Comm&)>& body) {
  run_ranks(world, [&](const std::shared_ptr<Comm>& comm) { body(*comm); });
}

template <class T>
Tensor view(std::vector<T>& values) {
  return Tensor(values.data(), {static_cast<int64_t>(values.size())}, DTypeOf<T>::value, Device::cpu);
}

TEST(SocketComm, SumsEveryLengthInTheOrderOfRanks) {
  for (const int64_t world : {2, 3, 5}) {
    for (const size_t n : {size_t{1}, size_t{2}, size_t{7}, size_t{100003}}) {
      const auto value = [](int64_t r, size_t i) {  // not exact: the order of adding shows
        return 1.0f / static_cast<float>(1 + i % 97) + static_cast<float>(r) * 0.1f;
      };
      std::vector<std::vector<float>> got(static_cast<size_t>(world));
      each_rank(world, [&](Comm& comm) {
        std::vector<float>& x = got[static_cast<size_t>(comm.rank())];
        x.resize(n);
        for (size_t i = 0; i < n; ++i) x[i] = value(comm.rank(), i);
        comm.all_reduce(view(x));
        comm.join();
      });
      for (size_t i = 0; i < n; ++i) {
        float sum = value(0, i);
        for (int64_t r = 1; r < world; ++r) sum += value(r, i);
        for (int64_t r = 0; r < world; ++r)
          ASSERT_EQ(got[static_cast<size_t>(r)][i], sum) << world << " " << n << " " << i;
      }
    }
  }
}

TEST(SocketComm, SumsFloat64AndPassesNotANumberOn) {
  each_rank(2, [](Comm& comm) {
    std::vector<double> x{1e-17, comm.rank() == 1 ? std::numeric_limits<double>::quiet_NaN() : 1.0, 3};
    comm.all_reduce(view(x));
    comm.join();
    EXPECT_EQ(x[0], 2e-17);
    EXPECT_TRUE(std::isnan(x[1]));
    EXPECT_EQ(x[2], 6);
  });
}

TEST(SocketComm, GathersEveryRanksPartAndBroadcastsRankZeros) {
  each_rank(3, [](Comm& comm) {
    std::vector<float> x(9, -1), y(4, static_cast<float>(comm.rank()));
    for (size_t i = 0; i < 3; ++i)
      x[static_cast<size_t>(comm.rank()) * 3 + i] = static_cast<float>(10 * comm.rank()) + static_cast<float>(i);
    comm.all_gather(view(x));
    comm.broadcast(view(y));
    comm.join();
    EXPECT_THAT(x, ::testing::ElementsAre(0, 1, 2, 10, 11, 12, 20, 21, 22));
    EXPECT_THAT(y, ::testing::Each(0.0f));
  });
}

TEST(SocketComm, CallsGoOnWhileTheCallerWorks) {
  each_rank(2, [](Comm& comm) {
    std::vector<float> x(1 << 20, 1), y(1 << 20, 2);
    comm.all_reduce(view(x));
    comm.all_reduce(view(y));  // queued behind the first, whoever is slower
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    comm.join();
    EXPECT_THAT(x, ::testing::Each(2.0f));
    EXPECT_THAT(y, ::testing::Each(4.0f));
  });
}

TEST(SocketComm, ARankThatLeavesIsNamed) {
  std::string said;
  each_rank(3, [&](Comm& comm) {
    if (comm.rank() == 1) return;  // its end of the group is closed
    std::vector<float> x(1000, 1);
    comm.all_reduce(view(x));
    try {
      comm.join();
      ADD_FAILURE() << "rank 1 was not missed";
    } catch (const SystemError& error) {
      if (comm.rank() == 0) said = error.what();
    }
    EXPECT_THROW(comm.all_reduce(view(x)), SystemError);
  });
  // Rank 2 may have given up, and left, before rank 0 looked.
  EXPECT_THAT(said, ::testing::AnyOf(HasSubstr("rank 1 left"), HasSubstr("rank 2 left")));
}

TEST(SocketComm, ARankThatDoesNotComeIsNamed) {
  const Listener mine("127.0.0.1"), other("127.0.0.1");
  const std::vector<Peer> peers{{"127.0.0.1", mine.port()}, {"127.0.0.1", other.port()}};
  try {
    make_socket_comm(mine, 0, peers, "key", 0.2);
    FAIL() << "nobody came";
  } catch (const SystemError& error) {
    EXPECT_THAT(error.what(), HasSubstr("did not come in 0.2 s: 1"));
  }
}

TEST(SocketComm, AStrangerWithAnotherKeyIsTurnedAway) {
  const Listener zero("127.0.0.1"), one("127.0.0.1");
  const std::vector<Peer> peers{{"127.0.0.1", zero.port()}, {"127.0.0.1", one.port()}};
  std::string said;
  std::thread stranger([&] {
    try {
      make_socket_comm(one, 1, peers, "another run", 0.6);
    } catch (const SystemError& error) {
      said = error.what();
    }
  });
  EXPECT_THROW(make_socket_comm(zero, 0, peers, "this run", 0.5), SystemError);
  stranger.join();
  EXPECT_THAT(said, HasSubstr("rank 0 does not answer"));
}

TEST(SocketComm, TensorsThatCannotBeCutAreRefused) {
  each_rank(2, [](Comm& comm) {
    std::vector<float> x(3);
    EXPECT_THROW(comm.all_gather(view(x)), InvalidArgument);
    EXPECT_THROW(comm.all_reduce(Tensor()), InvalidArgument);
  });
}

}  // namespace
}  // namespace bg
