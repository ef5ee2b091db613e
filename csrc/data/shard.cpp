#include "data/shard.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/threads.h"

namespace bg {
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "shards are read in place, hence little-endian hosts only");

// One shard's memory: a mapped file, or ids owned here.
struct ShardSet::Part {
  std::string path;
  const uint16_t* ids = nullptr;
  int64_t count = 0;
  std::vector<uint16_t> owned;
  void* map = nullptr;
  size_t map_bytes = 0;

  Part() = default;
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  ~Part() {
    if (map) ::munmap(map, map_bytes);
  }
};

namespace {

struct File {  // closes itself
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
};

[[noreturn]] void bad(const std::string& path, const std::string& why) {
  throw FormatError("shard " + path + ": " + why);
}

bool has_wildcard(const std::string& s) {
  return s.find_first_of("*?[") != std::string::npos;
}

bool matches(const std::string& name, const std::string& pattern) {
  return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

// Files of `folder` whose names match, sorted by name.
std::vector<std::string> files_of(const fs::path& folder, const std::string& pattern) {
  std::vector<std::string> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (matches(it->path().filename().string(), pattern) && !fs::is_directory(it->path()))
      paths.push_back(it->path().string());
  if (error) throw InvalidArgument(words("shard folder", folder.string() + ":", error.message()));
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::vector<std::string> expand(const std::string& where, const std::string& split) {
  if (where.empty()) throw InvalidArgument("no shards named: expected a file, a folder or a glob");
  const fs::path path(where);
  if (fs::is_directory(path)) {
    const auto all = files_of(path, "*.bin");
    if (all.empty()) throw InvalidArgument(words("shard folder", where, "holds no *.bin file"));
    const auto train = files_of(path, "*train_*.bin"), val = files_of(path, "*val_*.bin");
    if (split.empty()) {
      if (!train.empty() && !val.empty())
        throw InvalidArgument(words("shard folder", where, "holds training and validation shards; name one kind, e.g.",
                                    (path / "*train_*.bin").string()));
      return all;
    }
    const auto& wanted = split == "train" ? train : val;
    if (!wanted.empty()) return wanted;
    if (!train.empty() || !val.empty())
      throw InvalidArgument(words("shard folder", where, "holds no *" + split + "_*.bin file"));
    return all;
  }
  if (has_wildcard(where) && !fs::exists(path)) {
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    if (has_wildcard(folder.string()))
      throw InvalidArgument(words("shards", where + ": wildcards are allowed in the file name only"));
    auto found = files_of(folder, path.filename().string());
    if (found.empty()) throw InvalidArgument(words("shards", where + ": no file matches"));
    return found;
  }
  return {where};
}

}  // namespace

ShardSet::ShardSet(const Vocab& vocab) : vocab_(vocab) {}
ShardSet::~ShardSet() = default;

void ShardSet::add(std::unique_ptr<Part> part) {
  starts_.push_back(starts_.back() + part->count);
  parts_.push_back(std::move(part));
}

std::shared_ptr<const ShardSet> ShardSet::open(const std::string& where, const Vocab& vocab, const std::string& split) {
  return open(std::span(&where, 1), vocab, split);
}

std::shared_ptr<const ShardSet> ShardSet::open(std::span<const std::string> where, const Vocab& vocab,
                                               const std::string& split) {
  BG_CHECK(split.empty() || split == "train" || split == "val", "split must be train, val or nothing, got", split);
  std::shared_ptr<ShardSet> set(new ShardSet(vocab));
  for (const std::string& item : where) {
    for (const std::string& path : expand(item, split)) {
      File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
      if (file.fd < 0) {
        const std::string why = "shard " + path + ": " + std::strerror(errno);
        if (errno == ENOENT || errno == ENOTDIR) throw InvalidArgument(why);
        throw SystemError(why);
      }
      struct stat info;
      if (::fstat(file.fd, &info) != 0) throw SystemError("shard " + path + ": " + std::strerror(errno));
      if (!S_ISREG(info.st_mode)) bad(path, "is not a regular file");
      const int64_t bytes = info.st_size;
      if (bytes < kShardHeaderBytes)
        bad(path, words("has", bytes, "bytes, fewer than the header's", kShardHeaderBytes));
      auto part = std::make_unique<Part>();
      part->path = path;
      part->map_bytes = static_cast<size_t>(bytes);
      void* map = ::mmap(nullptr, part->map_bytes, PROT_READ, MAP_PRIVATE, file.fd, 0);
      if (map == MAP_FAILED) throw SystemError("shard " + path + ": cannot map: " + std::strerror(errno));
      part->map = map;
      const auto* header = static_cast<const int32_t*>(map);
      if (header[0] != kShardMagic)
        bad(path, words("magic at offset 0 is", header[0], "instead of", kShardMagic, ": not a shard of ids"));
      if (header[1] != kShardVersion)
        bad(path, words("version at offset 4 is", header[1], "; only", kShardVersion, "is known"));
      part->count = header[2];
      if (part->count < 0) bad(path, words("count of ids at offset 8 is", part->count));
      const int64_t expected = kShardHeaderBytes + 2 * part->count;
      if (bytes != expected)
        bad(path, words("count of ids at offset 8 is", part->count, ", so the file should have", expected,
                        "bytes, but it has", bytes));
      if (part->count == 0) bad(path, "holds no ids (count at offset 8 is 0)");
      if (header[3] != 0 && header[3] != vocab.size)
        bad(path, words("vocabulary at offset 12 is", header[3], "ids, but", vocab.name, "has", vocab.size));
      part->ids = reinterpret_cast<const uint16_t*>(static_cast<const char*>(map) + kShardHeaderBytes);
      set->add(std::move(part));
    }
  }
  if (set->parts_.empty()) throw InvalidArgument("no shards named: expected a file, a folder or a glob");
  return set;
}

std::shared_ptr<const ShardSet> ShardSet::of_ids(std::vector<uint16_t> ids, const Vocab& vocab,
                                                 const std::string& name) {
  std::shared_ptr<ShardSet> set(new ShardSet(vocab));
  if (ids.empty()) throw InvalidArgument(words(name, "is empty"));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] >= vocab.size)
      throw InvalidArgument(words(name + ": id", ids[i], "at index", i, "is outside", describe(vocab)));
  auto part = std::make_unique<Part>();
  part->path = name;
  part->owned = std::move(ids);
  part->ids = part->owned.data();
  part->count = static_cast<int64_t>(part->owned.size());
  set->add(std::move(part));
  return set;
}

std::vector<ShardSet::Shard> ShardSet::shards() const {
  std::vector<Shard> out;
  for (const auto& part : parts_) out.push_back({part->path, part->count});
  return out;
}

void ShardSet::copy(const Part& part, int64_t first, int64_t count, int32_t* out) const {
  const uint16_t* ids = part.ids + first;
  uint16_t worst = 0;  // one branch per call, not per id: the loop stays vectorised
  for (int64_t i = 0; i < count; ++i) {
    out[i] = ids[i];
    worst = std::max(worst, ids[i]);
  }
  if (worst < vocab_.size) return;
  int64_t at = 0;
  while (ids[at] < vocab_.size) ++at;
  bad(part.path, words("id", ids[at], "at offset", kShardHeaderBytes + 2 * (first + at), "is outside",
                       describe(vocab_) + "; was it made for another vocabulary?"));
}

void ShardSet::read(int64_t first, int64_t count, int32_t* out, bool ring) const {
  BG_CHECK(first >= 0 && count >= 0 && first <= size() && (ring || count <= size() - first), "ids", first, "to",
           first + count, "of a stream of", size());
  size_t at = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), first) - starts_.begin()) - 1;
  while (count > 0) {
    if (at == parts_.size()) at = 0, first = 0;
    const int64_t offset = first - starts_[at], n = std::min(count, parts_[at]->count - offset);
    copy(*parts_[at], offset, n, out);
    first += n, out += n, count -= n, ++at;
  }
}

void ShardSet::check(int threads) const {
  constexpr int64_t kPiece = 1 << 18;
  ThreadPool pool(threads);
  pool.parallel_for((size() + kPiece - 1) / kPiece, [&](int64_t i) {
    std::vector<int32_t> ids(static_cast<size_t>(std::min(kPiece, size() - i * kPiece)));
    read(i * kPiece, static_cast<int64_t>(ids.size()), ids.data());
  });
}

}  // namespace bg
