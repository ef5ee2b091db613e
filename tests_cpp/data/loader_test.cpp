#include "data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/check.h"
#include "base/random.h"

namespace bg {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using Ids = std::vector<int32_t>;

// Ids 0, 1, ..., n-1: each id tells its place.
std::shared_ptr<const ShardSet> counting(int n) {
  std::vector<uint16_t> ids(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) ids[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
  return ShardSet::of_ids(ids, kByte260);
}

LoaderOptions options(int64_t T, int64_t M, int64_t micro_batches = 1, int64_t rank = 0, int64_t world = 1,
                      bool shuffle = false) {
  LoaderOptions o;
  o.seq_len = T, o.micro_batch_ids = M, o.micro_batches = micro_batches, o.rank = rank, o.world = world,
  o.shuffle = shuffle, o.seed = 5;
  return o;
}

TEST(Loader, ShardOrderTakesOneIdMoreThanTheBatchAndGoesOnRightAfter) {
  Loader loader(counting(14), options(2, 4, 2));
  EXPECT_EQ(loader.get(0, 0).x, (Ids{0, 1, 2, 3}));
  EXPECT_EQ(loader.get(0, 0).y, (Ids{1, 2, 3, 4}));
  EXPECT_EQ(loader.get(0, 0).B, 2);
  EXPECT_EQ(loader.get(0, 1).x, (Ids{5, 6, 7, 8}));
  EXPECT_EQ(loader.get(1, 0).x, (Ids{10, 11, 12, 13}));  // the stream is a ring
  EXPECT_EQ(loader.get(1, 0).y, (Ids{11, 12, 13, 0}));
  EXPECT_EQ(loader.get(1, 1).x, (Ids{1, 2, 3, 4}));
}

TEST(Loader, RanksTakeConsecutivePieces) {
  Loader second(counting(100), options(3, 3, 2, 1, 3));
  EXPECT_EQ(second.get(0, 0).x, (Ids{4, 5, 6}));     // pieces 0, 1, 2 go to ranks 0, 1, 2
  EXPECT_EQ(second.get(0, 1).x, (Ids{16, 17, 18}));  // piece 4
  EXPECT_EQ(second.get(1, 0).x, (Ids{28, 29, 30}));
}

TEST(Loader, ShuffledEpochVisitsEveryWindowOnceOverAllRanks) {
  constexpr int kIds = 250, kT = 4, kWindows = (kIds - 1) / kT;  // 62
  std::vector<int> visits(kIds, 0);
  Ids order;
  for (int64_t step = 0; step < kWindows / 2; ++step) {
    for (int64_t rank = 0; rank < 2; ++rank) {
      Loader loader(counting(kIds), options(kT, kT, 1, rank, 2, true));
      const Batch& batch = loader.get(step, 0);
      for (int t = 0; t < kT; ++t) {
        EXPECT_EQ(batch.x[static_cast<size_t>(t)], (batch.x[0] + t) % kIds);
        EXPECT_EQ(batch.y[static_cast<size_t>(t)], (batch.x[0] + t + 1) % kIds);
        ++visits[static_cast<size_t>(batch.x[static_cast<size_t>(t)])];
      }
      order.push_back(batch.x[0]);
    }
  }
  EXPECT_EQ(std::count(visits.begin(), visits.end(), 1), kWindows * kT);
  EXPECT_EQ(std::count(visits.begin(), visits.end(), 0), kIds - kWindows * kT);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(Loader, EpochsAndSeedsDifferInOrder) {
  const auto first_epochs = [](uint64_t seed) {
    LoaderOptions o = options(4, 4 * 62, 1, 0, 1, true);
    o.seed = seed;
    Loader loader(counting(250), o);
    std::vector<Ids> epochs;
    for (int e = 0; e < 3; ++e) epochs.push_back(loader.get(e, 0).x);
    return epochs;
  };
  const auto a = first_epochs(1), b = first_epochs(2);
  EXPECT_EQ(a, first_epochs(1));
  EXPECT_NE(a[0], a[1]);
  EXPECT_NE(a[1], a[2]);
  EXPECT_NE(a[0], b[0]);
}

TEST(Loader, ResumeAndPrefetchGiveTheSameBatches) {
  for (const bool shuffle : {false, true}) {
    LoaderOptions direct = options(4, 8, 3, 1, 2, shuffle);
    direct.prefetch = 0;
    Loader reference(counting(200), direct);
    for (const int prefetch : {1, 2, 5}) {
      LoaderOptions o = direct;
      o.prefetch = prefetch;
      Loader steady(counting(200), o);
      for (int64_t step = 0; step < 6; ++step) {
        Loader fresh(counting(200), o);
        for (int64_t micro = 0; micro < 3; ++micro) {
          const Batch& want = reference.get(step, micro);
          EXPECT_EQ(steady.get(step, micro).x, want.x);
          EXPECT_EQ(steady.get(step, micro).y, want.y);
          EXPECT_EQ(fresh.get(step, micro).x, want.x);
        }
      }
      EXPECT_EQ(steady.get(1, 2).x, reference.get(1, 2).x);    // back
      EXPECT_EQ(steady.get(40, 0).x, reference.get(40, 0).x);  // and far ahead
    }
  }
}

TEST(Loader, FaultsOfTheBackgroundThreadReachTheCallerAtTheirPlace) {
  const auto path = std::filesystem::temp_directory_path() / ("bytegolf-loader-" + std::to_string(::getpid()) + ".bin");
  std::vector<int32_t> header(256);
  header[0] = 20240520, header[1] = 1, header[2] = 100, header[3] = 260;
  std::vector<uint16_t> ids(100, 7);
  ids[50] = 999;
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(header.data()), 1024).write(reinterpret_cast<const char*>(ids.data()), 200);
  out.close();
  Loader loader(ShardSet::open(path.string(), kByte260), options(9, 9));  // pieces of 10 ids: piece 5 is bad
  std::filesystem::remove(path);                                          // an open file stays readable
  for (int64_t step = 0; step < 5; ++step) EXPECT_EQ(loader.get(step, 0).x.size(), 9u);
  for (int again = 0; again < 2; ++again)
    EXPECT_THAT([&] { loader.get(5, 0); }, ThrowsMessage<FormatError>(HasSubstr("id 999 at offset 1124")));
  EXPECT_EQ(loader.get(6, 0).x[0], 7);
}

TEST(Loader, OrderIsABijection) {
  for (const int64_t n : {1, 2, 3, 5, 64, 65, 1000}) {
    std::set<int64_t> seen;
    for (int64_t i = 0; i < n; ++i) seen.insert(shuffled(i, n, 3, 1));
    EXPECT_EQ(static_cast<int64_t>(seen.size()), n);
    EXPECT_EQ(*seen.begin(), 0);
    EXPECT_EQ(*seen.rbegin(), n - 1);
  }
}

TEST(Loader, OrderLooksUniform) {
  // Where element 0 of 5 lands over many epochs: each place about 1/5 of 4000 (standard deviation 25).
  std::vector<int> places(5, 0);
  for (uint32_t epoch = 0; epoch < 4000; ++epoch) ++places[static_cast<size_t>(shuffled(0, 5, 9, epoch))];
  for (int count : places) EXPECT_NEAR(count, 800, 150);
}

TEST(Loader, TooLittleDataIsSaidWithNumbers) {
  EXPECT_THAT([] { Loader(counting(8), options(4, 8)); },
              ThrowsMessage<InvalidArgument>(HasSubstr(
                  "too little data: 8 ids in array of ids but one micro-batch of micro_batch_ids = 8 needs 9")));
  EXPECT_THAT([] { Loader(counting(4), options(4, 8, 1, 0, 1, true)); },
              ThrowsMessage<InvalidArgument>(HasSubstr("window of seq_len = 4 needs 5")));
  Loader smallest(counting(5), options(4, 8, 1, 0, 1, true));  // one window a row, again and again
  EXPECT_EQ(smallest.get(0, 0).x.size(), 8u);
  EXPECT_THROW(Loader(counting(99), options(4, 6)), InvalidArgument);
  EXPECT_THROW(Loader(counting(99), options(4, 8, 1, 2, 2)), InvalidArgument);
  EXPECT_THROW(smallest.get(0, 1), InvalidArgument);
}

TEST(Loader, OptionsFollowTheConfig) {
  Config c;  // 393,216 ids a step in micro-batches of 49,152
  EXPECT_EQ(LoaderOptions::of(c).micro_batches, 8);
  EXPECT_EQ(LoaderOptions::of(c, 3, 4).micro_batches, 2);
  EXPECT_THAT([&] { LoaderOptions::of(c, 0, 3); },
              ThrowsMessage<InvalidArgument>(HasSubstr("times the number of ranks 3")));
}

}  // namespace
}  // namespace bg
