#include "ranks/comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
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

// A caller of a rank's port that is none of the group.
class Stranger {
 public:
  explicit Stranger(int port) : handle_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(handle_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  }
  ~Stranger() { close(handle_); }
  Stranger(const Stranger&) = delete;
  Stranger& operator=(const Stranger&) = delete;
  void say(const std::string& bytes) { ::send(handle_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  /// What comes until the other end closes.
  std::string hear() {
    std::string all;
    char piece[256];
    for (ssize_t n; (n = recv(handle_, piece, sizeof(piece), 0)) > 0;) all.append(piece, static_cast<size_t>(n));
    return all;
  }

 private:
  int handle_;
};

TEST(SocketComm, StrangersThatKeepQuietOrTalkNonsenseDoNotHoldUpTheRanks) {
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<Peer> peers;
  std::vector<std::unique_ptr<Stranger>> strangers;
  for (int r = 0; r < 3; ++r) {
    listeners.push_back(std::make_unique<Listener>("127.0.0.1"));
    peers.push_back({"127.0.0.1", listeners.back()->port()});
    for (int i = 0; i < (r == 0 ? 200 : 60); ++i) {
      strangers.push_back(std::make_unique<Stranger>(peers.back().port));
      if (i % 4 == 1) strangers.back()->say("b");
      if (i % 4 == 2) strangers.back()->say(std::string(1 << 12, '\xff'));
      if (i % 4 == 3) strangers.back()->say("bgranks2" + std::string(72, '\0'));
    }
  }
  std::vector<double> sums(3);
  run_ranks(
      3, [&](int64_t r) { return make_socket_comm(*listeners[static_cast<size_t>(r)], r, peers, "test", 60); },
      [&](const std::shared_ptr<Comm>& comm) {
        std::vector<double> x{static_cast<double>(comm->rank() + 1)};
        comm->all_reduce(view(x));
        comm->join();
        sums[static_cast<size_t>(comm->rank())] = x[0];
      });
  EXPECT_THAT(sums, ::testing::Each(6.0));
}

TEST(SocketComm, NothingThatARankSaysFirstServesAStranger) {
  const Listener mine("127.0.0.1"), other("127.0.0.1");
  const std::vector<Peer> peers{{"127.0.0.1", mine.port()}, {"127.0.0.1", other.port()}};
  std::string first, second;
  std::thread rank([&] { EXPECT_THROW(make_socket_comm(mine, 0, peers, "key", 3), SystemError); });
  for (std::string* heard : {&first, &second}) {
    Stranger stranger(mine.port());
    stranger.say(first.empty() ? std::string(80, 'x') : first + first);  // the second says back what the first heard
    *heard = stranger.hear();
  }
  rank.join();
  EXPECT_EQ(first.size(), 40u);  // a fixed magic and a fresh number: no key, no hash of one
  EXPECT_EQ(second.size(), 40u);
  EXPECT_EQ(first.substr(0, 8), second.substr(0, 8));
  EXPECT_NE(first.substr(8), second.substr(8));
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
