#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/check.h"
#include "base/half.h"
#include "base/hash.h"

namespace bg {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("bytegolf_files_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  size_t count() const { return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder_), {})); }
  std::filesystem::path folder_;
};

const Bytes kOld{1, 2, 3}, kNew{4, 5, 6, 7};

TEST_F(Files, WhatIsWrittenIsReadAndMapped) {
  write_file_atomic(path("a"), kOld);
  write_file_atomic(path("a"), kNew);
  EXPECT_EQ(read_file(path("a"), 100), kNew);
  const MappedFile map(path("a"));
  EXPECT_EQ(Bytes(map.bytes().begin(), map.bytes().end()), kNew);
  EXPECT_EQ(count(), 1u);
}

TEST_F(Files, EmptyFilesAreFiles) {
  write_file_atomic(path("empty"), {});
  EXPECT_TRUE(read_file(path("empty"), 0).empty());
  EXPECT_TRUE(MappedFile(path("empty")).bytes().empty());
}

TEST_F(Files, MapsCanBeMoved) {
  write_file_atomic(path("a"), kOld);
  MappedFile first(path("a"));
  MappedFile second(std::move(first));
  first = std::move(second);
  EXPECT_EQ(first.bytes().size(), kOld.size());
}

TEST_F(Files, PermissionsFollowTheUmask) {
  const mode_t before = ::umask(027);
  write_file_atomic(path("a"), kOld);
  ::umask(before);
  struct stat st;
  ASSERT_EQ(::stat(path("a").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0640u);
}

TEST_F(Files, ErrorsNameThePathAndEndWithTheSystemsWords) {
  EXPECT_THAT(
      [&] { read_file(path("none"), 9); },
      ThrowsMessage<SystemError>(::testing::AllOf(HasSubstr(path("none")), EndsWith("No such file or directory"))));
  EXPECT_THAT([&] { read_file(folder_.string(), 9); }, ThrowsMessage<SystemError>(EndsWith("Is a directory")));
  EXPECT_THAT([&] { MappedFile m(path("none")); }, ThrowsMessage<SystemError>(EndsWith("No such file or directory")));
  EXPECT_THAT([&] { write_file_atomic(path("no/such/folder"), kOld); },
              ThrowsMessage<SystemError>(EndsWith("No such file or directory")));
}

TEST_F(Files, ErrorsCarryTheSystemsNumber) {
  try {
    read_file(path("none"), 9);
    FAIL() << "no error";
  } catch (const FileError& error) {
    EXPECT_EQ(error.error_number, ENOENT);
  }
}

TEST_F(Files, ReadingChecksTheCapFirst) {
  write_file_atomic(path("a"), kNew);
  EXPECT_THAT([&] { read_file(path("a"), 3); }, ThrowsMessage<FormatError>(HasSubstr("4 bytes are more than the 3")));
}

TEST_F(Files, AFullDiskLeavesTheOldFileAndNoLitter) {
  write_file_atomic(path("a"), kOld);
  // A limit on file size stands in for a full disk: write() fails the same way, with another errno.
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 1000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_THAT([&] { write_file_atomic(path("a"), Bytes(5000)); },
              ThrowsMessage<SystemError>(::testing::AllOf(HasSubstr(path("a")), EndsWith("File too large"))));
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(read_file(path("a"), 100), kOld);
  EXPECT_EQ(count(), 1u);
}

// Digests from FIPS 180-4's examples and, for a million letters, from NIST's test vectors.
TEST(Hash, IsSha256) {
  const auto digest = [](const std::string& s) {
    return hex(sha256({reinterpret_cast<const uint8_t*>(s.data()), s.size()}));
  };
  EXPECT_EQ(digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Half, EveryValueSurvivesAndTiesGoToEven) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const float f = float_from_half(static_cast<uint16_t>(h));
    if (f != f)
      EXPECT_NE(float_from_half(half_from_float(f)), float_from_half(half_from_float(f)));
    else
      EXPECT_EQ(half_from_float(f), h);
  }
  EXPECT_EQ(half_from_float(1.0f + 0x1p-11f), 0x3c00);      // halfway: to even
  EXPECT_EQ(half_from_float(1.0f + 3 * 0x1p-11f), 0x3c02);  // halfway: to even, upwards
  EXPECT_EQ(half_from_float(0x1p-25f), 0);                  // half the smallest: to zero
  EXPECT_EQ(half_from_float(-0x1.8p-25f), 0x8001);          // more than half
  EXPECT_EQ(half_from_float(65519.0f), 0x7bff);
  EXPECT_EQ(half_from_float(65520.0f), 0x7c00);
}

// Cases 1, 2 and 6 of RFC 4231.
TEST(Hash, HmacEqualsTheVectorsOfItsStandard) {
  const auto mac = [](const std::string& key, const std::string& text) {
    return hex(hmac_sha256({reinterpret_cast<const uint8_t*>(key.data()), key.size()},
                           {reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  };
  EXPECT_EQ(mac(std::string(20, '\x0b'), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(mac("Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(mac(std::string(131, '\xaa'), "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
  EXPECT_TRUE(equal_in_constant_time(sha256({}), sha256({})));
  EXPECT_FALSE(equal_in_constant_time(sha256({}), Sha256{}));
}

}  // namespace
}  // namespace bg
