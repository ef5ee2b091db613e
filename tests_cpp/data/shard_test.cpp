#include "data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/config.h"

namespace bg {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
namespace fs = std::filesystem;

class Shards : public ::testing::Test {
 protected:
  Shards()
      : folder_(fs::temp_directory_path() / ("bytegolf-shards-" + std::to_string(::getpid()) + "-" +
                                             ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    fs::create_directories(folder_);
  }
  ~Shards() override { fs::remove_all(folder_); }

  // A file of any header numbers and ids; returns its path.
  std::string write(const std::string& name, std::vector<int32_t> header, const std::vector<uint16_t>& ids) {
    header.resize(256);
    std::ofstream out(folder_ / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(header.data()), 1024);
    out.write(reinterpret_cast<const char*>(ids.data()), static_cast<std::streamsize>(2 * ids.size()));
    return (folder_ / name).string();
  }
  std::string good(const std::string& name, const std::vector<uint16_t>& ids) {
    return write(name, {20240520, 1, static_cast<int32_t>(ids.size()), 260}, ids);
  }
  // One whose header declares no vocabulary, as other programs write it.
  std::string undeclared(const std::string& name, const std::vector<uint16_t>& ids) {
    return write(name, {20240520, 1, static_cast<int32_t>(ids.size())}, ids);
  }
  fs::path folder_;
};

std::vector<int32_t> read(const ShardSet& s, int64_t first, int64_t count, bool ring = false) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  s.read(first, count, out.data(), ring);
  return out;
}

TEST(Vocab, BytesOfTheTwoFamiliesAreCountedById) {
  const int32_t ids[] = {1, 0, 3, 4, 259};
  EXPECT_EQ(kByte260.count_bytes(ids, 5), 2);
  EXPECT_EQ(kByte256.count_bytes(ids, 4), 4);
  EXPECT_EQ(kByte260.id_of(255), 259);
  EXPECT_EQ(kByte256.id_of(0), 0);
  EXPECT_THROW(vocab_of("byte999"), InvalidArgument);
  EXPECT_EQ(Config::preset("byte256").vocab_size(), 256);
  EXPECT_EQ(Config::preset("byte256").bos_id(), -1);
  EXPECT_EQ(Config{}.byte_offset(), 4);
}

TEST_F(Shards, FolderIsOneStreamSortedByName) {
  good("b.bin", {7, 8});
  good("a.bin", {4, 5, 6});
  write("notes.txt", {}, {});
  const auto s = ShardSet::open(folder_.string(), kByte260);
  EXPECT_EQ(s->size(), 5);
  EXPECT_EQ(read(*s, 0, 5), (std::vector<int32_t>{4, 5, 6, 7, 8}));
  EXPECT_EQ(read(*s, 2, 2), (std::vector<int32_t>{6, 7}));
  EXPECT_EQ(read(*s, 5, 0).size(), 0u);
  EXPECT_EQ(read(*s, 3, 7, true), (std::vector<int32_t>{7, 8, 4, 5, 6, 7, 8}));
  EXPECT_THROW(read(*s, 3, 3), InvalidArgument);
  EXPECT_THROW(read(*s, -1, 2), InvalidArgument);
}

TEST_F(Shards, TrainingAndValidationAreNeverMixed) {
  good("x_train_000.bin", {4});
  good("x_val_000.bin", {5, 6});
  EXPECT_THAT([&] { ShardSet::open(folder_.string(), kByte260); },
              ThrowsMessage<InvalidArgument>(HasSubstr("holds training and validation shards")));
  EXPECT_EQ(ShardSet::open(folder_.string(), kByte260, "train")->size(), 1);
  EXPECT_EQ(ShardSet::open(folder_.string(), kByte260, "val")->size(), 2);
  EXPECT_EQ(ShardSet::open((folder_ / "*_val_*.bin").string(), kByte260)->size(), 2);
  fs::remove(folder_ / "x_val_000.bin");
  EXPECT_THROW(ShardSet::open(folder_.string(), kByte260, "val"), InvalidArgument);
}

TEST_F(Shards, MissingShardsAreNamed) {
  EXPECT_THAT([&] { ShardSet::open((folder_ / "none.bin").string(), kByte260); },
              ThrowsMessage<InvalidArgument>(HasSubstr("none.bin: No such file")));
  EXPECT_THAT([&] { ShardSet::open((folder_ / "*.bin").string(), kByte260); },
              ThrowsMessage<InvalidArgument>(HasSubstr("no file matches")));
  EXPECT_THAT([&] { ShardSet::open(folder_.string(), kByte260); },
              ThrowsMessage<InvalidArgument>(HasSubstr("holds no *.bin")));
  EXPECT_THROW(ShardSet::open("", kByte260), InvalidArgument);
}

TEST_F(Shards, DamagedHeadersAreRefusedWithPathAndOffset) {
  const auto refuses = [](const std::string& path, const std::string& why) {
    EXPECT_THAT([&] { ShardSet::open(path, kByte260); },
                ThrowsMessage<FormatError>(AllOf(HasSubstr(path), HasSubstr(why))));
  };
  std::ofstream(folder_ / "short.bin") << "hello";
  refuses((folder_ / "short.bin").string(), "has 5 bytes, fewer than the header's 1024");
  std::ofstream(folder_ / "nothing.bin").flush();
  refuses((folder_ / "nothing.bin").string(), "has 0 bytes");
  refuses(write("foreign.bin", {42, 1, 1}, {4}), "magic at offset 0 is 42");
  refuses(write("version.bin", {20240520, 2, 1}, {4}), "version at offset 4 is 2");
  refuses(write("negative.bin", {20240520, 1, -3}, {4}), "offset 8 is -3");
  refuses(write("empty.bin", {20240520, 1, 0}, {}), "holds no ids");
  refuses(write("cut.bin", {20240520, 1, 4}, {4, 5, 6}), "should have 1032 bytes, but it has 1030");
  refuses(write("long.bin", {20240520, 1, 1}, {4, 5}), "should have 1026 bytes, but it has 1028");
  refuses(write("other.bin", {20240520, 1, 1, 256}, {4}), "vocabulary at offset 12 is 256 ids, but byte260 has 260");
  EXPECT_EQ(ShardSet::open(good("same.bin", {4}), kByte260)->size(), 1);
}

TEST_F(Shards, TruncatedInUseIsAnErrorThatNamesTheOffset) {
  const std::string path = good("a.bin", std::vector<uint16_t>(5000, 7));
  const auto s = ShardSet::open(path, kByte260);
  fs::resize_file(path, 1024 + 2 * 3000);
  EXPECT_EQ(read(*s, 0, 3000).size(), 3000u);
  const auto why = AllOf(HasSubstr(path), HasSubstr("offset 7024"), HasSubstr("had 11024 bytes when it was opened"));
  EXPECT_THAT([&] { read(*s, 2000, 2000); }, ThrowsMessage<FormatError>(why));
  fs::resize_file(path, 0);
  EXPECT_THAT([&] { read(*s, 10, 1); }, ThrowsMessage<FormatError>(HasSubstr("offset 1044")));
}

TEST_F(Shards, AFileThatIsRemovedOrReplacedIsReadOnAsItWas) {
  const std::string path = good("a.bin", {4, 5, 6});
  const auto s = ShardSet::open(path, kByte260);
  fs::rename(good("new.bin", {7, 8, 9}), path);
  EXPECT_EQ(read(*s, 0, 3), (std::vector<int32_t>{4, 5, 6}));
  fs::remove(path);
  EXPECT_EQ(read(*s, 0, 3), (std::vector<int32_t>{4, 5, 6}));
}

// A set of 300 shards holds fewer files than that open: shard 299 is opened for each read.
TEST_F(Shards, AFileThatIsNotKeptOpenMustStayTheSame) {
  std::vector<std::string> paths;
  for (int i = 0; i < 300; ++i)
    paths.push_back(good(std::to_string(1000 + i) + ".bin", {static_cast<uint16_t>(i % 260)}));
  const auto s = ShardSet::open(folder_.string(), kByte260);
  const auto open_files = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  EXPECT_LT(open_files(), 290);
  for (int i = 0; i < 300; ++i) EXPECT_EQ(read(*s, i, 1)[0], i % 260);
  fs::rename(good("new.bin", {9}), paths[299]);
  EXPECT_THAT([&] { read(*s, 299, 1); },
              ThrowsMessage<FormatError>(AllOf(HasSubstr(paths[299]), HasSubstr("removed or replaced"))));
  fs::remove(paths[298]);
  EXPECT_THAT([&] { read(*s, 298, 1); }, ThrowsMessage<FormatError>(HasSubstr("removed or replaced")));
}

TEST_F(Shards, AnUndeclaredVocabularyIsRefusedWhereIdsTellAndNotedElsewhere) {
  const std::string text = "Two lines of plain text,\nwith spaces between the words.\n";
  std::vector<uint16_t> raw(text.begin(), text.end()), shifted{1};
  for (const char c : text) shifted.push_back(static_cast<uint16_t>(c + 4));
  const auto refuses = [](const std::string& path, const Vocab& vocab, const std::string& why) {
    EXPECT_THAT([&] { ShardSet::open(path, vocab); },
                ThrowsMessage<FormatError>(AllOf(HasSubstr(path), HasSubstr(why))));
  };
  const std::string of_256 = undeclared("raw.bin", raw), of_260 = undeclared("shifted.bin", shifted);
  EXPECT_THAT(
      ShardSet::open(of_256, kByte256)->notes(),
      ::testing::ElementsAre("shard " + of_256 + " declares no vocabulary (0 at offset 12); taken for byte256"));
  EXPECT_EQ(ShardSet::open(of_260, kByte260)->notes().size(), 1u);
  EXPECT_THAT(ShardSet::open(good("good.bin", shifted), kByte260)->notes(), ::testing::IsEmpty());
  refuses(of_256, kByte260, "are control characters, but 0 as byte256");
  refuses(of_260, kByte256, "are control characters, but 0 as byte260");
  refuses(undeclared("no_bos.bin", {'x', 'y', 'z'}), kByte260,
          "none of its 3 ids is the bos 1 that opens every document");
  refuses(undeclared("unknown.bin", {1, 101, 3}), kByte260, "id 3 at offset 1028");
  refuses(undeclared("gpt2.bin", {50256, 464, 2068}), kByte260, "id 50256 at offset 1024 is outside");
  refuses(undeclared("gpt2.bin", {50256, 464, 2068}), kByte256, "id 50256 at offset 1024 is outside");
  std::vector<uint16_t> late(70000, 'x');  // bos may come late: after 65,536 ids and a long document's end
  late[69000] = 1;
  EXPECT_EQ(ShardSet::open(undeclared("late.bin", late), kByte260)->size(), 70000);
  std::vector<uint16_t> any(256);  // no text in either family: nothing can be told
  for (int i = 0; i < 256; ++i) any[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
  EXPECT_EQ(ShardSet::open(undeclared("any.bin", any), kByte256)->notes().size(), 1u);
}

TEST_F(Shards, WhatWasLookedForIsKnown) {
  good("a_train_0.bin", {4});
  good("a_val_0.bin", {4});
  const std::string folder = folder_.string(), where[] = {folder, folder + "/a_*.bin", folder + "/[x].bin"};
  const auto found = find_shards(std::span(where, 1), "val");
  EXPECT_EQ(found[0].folder, folder);
  EXPECT_TRUE(found[0].matches("b_val_1.bin") && !found[0].matches("a_train_0.bin"));
  EXPECT_EQ(find_shards(std::span(where + 1, 1))[0].paths.size(), 2u);
  good("[x].bin", {4});  // a file of a name that looks like a glob
  const auto file = find_shards(std::span(where + 2, 1));
  EXPECT_TRUE(file[0].is_file && file[0].matches("[x].bin") && !file[0].matches("x.bin"));
}

TEST_F(Shards, IdsOutsideTheVocabularyNeverLeaveTheShard) {
  std::vector<uint16_t> ids(1000, 4);
  ids[700] = 260;
  const auto s = ShardSet::open(good("a.bin", ids), kByte260);
  EXPECT_EQ(read(*s, 0, 700).size(), 700u);
  const auto why = AllOf(HasSubstr("a.bin"), HasSubstr("id 260 at offset 2424 is outside byte260"));  // 1024 + 2 * 700
  EXPECT_THAT([&] { read(*s, 600, 200); }, ThrowsMessage<FormatError>(why));
  EXPECT_THAT([&] { s->check(2); }, ThrowsMessage<FormatError>(why));
  EXPECT_THAT(
      [&] {
        ShardSet::of_ids({0, 255, 256}, kByte256);
      },
      ThrowsMessage<InvalidArgument>(HasSubstr("id 256 at index 2")));
  EXPECT_THROW(ShardSet::of_ids({}, kByte256), InvalidArgument);
}

}  // namespace
}  // namespace bg
