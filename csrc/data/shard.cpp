#include "data/shard.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/check.h"
#include "base/threads.h"

namespace bg {
namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "shards are read in place, hence little-endian hosts only");

namespace {

constexpr int64_t kPieceIds = 1 << 14;   // read at a time, on the stack
constexpr int64_t kSampleIds = 1 << 16;  // of a shard that declares no vocabulary
constexpr const char* kTrain = "*train_*.bin";
constexpr const char* kVal = "*val_*.bin";

// What an open file is known by as long as it is in use.
struct FileKey {
  dev_t device = 0;
  ino_t inode = 0;
  bool operator==(const FileKey&) const = default;
};

}  // namespace

// One shard: a file, or ids owned here.
struct ShardSet::Part {
  std::string path;
  int64_t count = 0;
  std::vector<uint16_t> owned;
  int fd = -1;  // -1: opened for each read
  FileKey key;

  Part() = default;
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  ~Part() {
    if (fd >= 0) ::close(fd);
  }

  // Copies ids first..first+n-1 to `out`.
  void read(int64_t first, int64_t n, uint16_t* out) const;
};

namespace {

struct File {  // closes itself
  int fd;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  int release() { return std::exchange(fd, -1); }
};

// Never waits, not even for the writer of a pipe.
int open_to_read(const std::string& path) {
  return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

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

ShardFiles files_in(const std::string& where, const std::string& split) {
  const fs::path path(where);
  const auto all = files_of(path, "*.bin");
  if (all.empty()) throw InvalidArgument(words("shard folder", where, "holds no *.bin file"));
  const auto train = files_of(path, kTrain), val = files_of(path, kVal);
  if (train.empty() && val.empty()) return {where, "*.bin", false, all};
  if (split.empty()) {
    if (!train.empty() && !val.empty())
      throw InvalidArgument(words("shard folder", where, "holds training and validation shards; name one kind, e.g.",
                                  (path / kTrain).string()));
    return {where, "*.bin", false, all};
  }
  const auto& wanted = split == "train" ? train : val;
  const char* pattern = split == "train" ? kTrain : kVal;
  if (wanted.empty()) throw InvalidArgument(words("shard folder", where, "holds no", pattern, "file"));
  return {where, pattern, false, wanted};
}

ShardFiles find(const std::string& where, const std::string& split) {
  if (where.empty()) throw InvalidArgument("no shards named: expected a file, a folder or a glob");
  const fs::path path(where);
  if (fs::is_directory(path)) return files_in(where, split);
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string name = path.filename().string();
  if (!has_wildcard(where) || fs::exists(path)) return {folder.string(), name, true, {where}};
  if (has_wildcard(folder.string()))
    throw InvalidArgument(words("shards", where + ": wildcards are allowed in the file name only"));
  auto found = files_of(folder, name);
  if (found.empty()) throw InvalidArgument(words("shards", where + ": no file matches"));
  return {folder.string(), name, false, std::move(found)};
}

// Whether an id is one that text of this vocabulary does not hold: a special id other than bos, a control character
// other than tab and line ends.
bool is_odd(const Vocab& vocab, int32_t id) {
  if (id < vocab.byte_offset) return id != vocab.bos;
  const int32_t byte = id - vocab.byte_offset;
  return (byte < 32 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 127;
}

}  // namespace

bool ShardFiles::matches(const std::string& name) const {
  return is_file ? name == pattern : bg::matches(name, pattern);
}

std::vector<ShardFiles> find_shards(std::span<const std::string> where, const std::string& split) {
  BG_CHECK(split.empty() || split == "train" || split == "val", "split must be train, val or nothing, got", split);
  std::vector<ShardFiles> found;
  for (const std::string& item : where) found.push_back(find(item, split));
  if (found.empty()) throw InvalidArgument("no shards named: expected a file, a folder or a glob");
  return found;
}

void ShardSet::Part::read(int64_t first, int64_t n, uint16_t* out) const {
  if (!owned.empty()) {
    std::copy_n(owned.begin() + first, n, out);
    return;
  }
  const int64_t offset = kShardHeaderBytes + 2 * first, bytes = 2 * n;
  File own{fd < 0 ? open_to_read(path) : -1};
  if (fd < 0) {
    struct stat info;
    if (own.fd < 0 || ::fstat(own.fd, &info) != 0 || FileKey{info.st_dev, info.st_ino} != key)
      bad(path, words("was removed or replaced in use, and cannot be read at offset", offset));
  }
  for (int64_t at = 0; at < bytes;) {
    const ssize_t got =
        ::pread(fd < 0 ? own.fd : fd, reinterpret_cast<char*>(out) + at, static_cast<size_t>(bytes - at), offset + at);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      throw SystemError(words("shard", path + ": cannot read at offset", offset + at) + ": " + std::strerror(errno));
    if (got == 0)
      bad(path, words("ends at or before offset", offset + at, "though it had", kShardHeaderBytes + 2 * count,
                      "bytes when it was opened: it was truncated in use"));
    at += got;
  }
}

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
  return open(find_shards(where, split), vocab);
}

std::shared_ptr<const ShardSet> ShardSet::open(std::span<const ShardFiles> files, const Vocab& vocab) {
  std::shared_ptr<ShardSet> set(new ShardSet(vocab));
  for (const ShardFiles& item : files)
    for (const std::string& path : item.paths) set->add_file(path);
  if (set->parts_.empty()) throw InvalidArgument("no shards named: expected a file, a folder or a glob");
  if (const auto& paths = set->undeclared_; !paths.empty())
    set->notes_.push_back(words("shard", paths.front(),
                                paths.size() > 1 ? words("and", paths.size() - 1, "more declare") : "declares",
                                "no vocabulary (0 at offset 12); taken for", vocab.name));
  return set;
}

void ShardSet::add_file(const std::string& path) {
  File file{open_to_read(path)};
  if (file.fd < 0) {
    const std::string why = "shard " + path + ": " + std::strerror(errno);
    if (errno == ENOENT || errno == ENOTDIR) throw InvalidArgument(why);
    throw SystemError(why);
  }
  struct stat info;
  if (::fstat(file.fd, &info) != 0) throw SystemError("shard " + path + ": " + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) bad(path, "is not a regular file");
  const int64_t bytes = info.st_size;
  if (bytes < kShardHeaderBytes) bad(path, words("has", bytes, "bytes, fewer than the header's", kShardHeaderBytes));
  std::array<int32_t, 4> header;
  const ssize_t got = ::pread(file.fd, header.data(), sizeof header, 0);
  if (got < 0) throw SystemError("shard " + path + ": cannot read at offset 0: " + std::strerror(errno));
  if (got != sizeof header) bad(path, words("has", got, "bytes, fewer than the header's", kShardHeaderBytes));
  if (header[0] != kShardMagic)
    bad(path, words("magic at offset 0 is", header[0], "instead of", kShardMagic, ": not a shard of ids"));
  if (header[1] != kShardVersion)
    bad(path, words("version at offset 4 is", header[1], "; only", kShardVersion, "is known"));
  auto part = std::make_unique<Part>();
  part->path = path;
  part->count = header[2];
  if (part->count < 0) bad(path, words("count of ids at offset 8 is", part->count));
  const int64_t expected = kShardHeaderBytes + 2 * part->count;
  if (bytes != expected)
    bad(path, words("count of ids at offset 8 is", part->count, ", so the file should have", expected,
                    "bytes, but it has", bytes));
  if (part->count == 0) bad(path, "holds no ids (count at offset 8 is 0)");
  if (header[3] != 0 && header[3] != vocab_.size)
    bad(path, words("vocabulary at offset 12 is", header[3], "ids, but", vocab_.name, "has", vocab_.size));
  part->key = {info.st_dev, info.st_ino};
  part->fd = file.release();
  if (header[3] == 0) check_undeclared(*part);
  if (parts_.size() >= kOpenFiles) ::close(std::exchange(part->fd, -1));
  add(std::move(part));
}

// Ids of another vocabulary betray themselves: they are too large, hold no bos although every document begins with one,
// hold "unknown" although every byte is known, or make control characters of spaces and line ends that the
// other vocabulary reads as text. What none of this tells (no text at all, say) is accepted with a note.
void ShardSet::check_undeclared(const Part& part) {
  const Vocab& other = vocab_ == kByte260 ? kByte256 : kByte260;
  const std::string declares =
      words("declares no vocabulary (0 at offset 12) and is not", vocab_.name + std::string(":"));
  std::vector<int32_t> ids;
  const auto find_id = [&](int32_t id) { return std::find(ids.begin(), ids.end(), id); };
  bool has_bos = vocab_.bos < 0;
  for (int64_t first = 0; first < part.count && (first == 0 || !has_bos); first += kSampleIds) {
    ids.resize(static_cast<size_t>(std::min(kSampleIds, part.count - first)));
    copy(part, first, static_cast<int64_t>(ids.size()), ids.data());
    has_bos = has_bos || find_id(vocab_.bos) != ids.end();
    if (first > 0) continue;
    if (const auto at = find_id(vocab_.unk); vocab_.unk >= 0 && at != ids.end())
      bad(part.path, words(declares, "id", vocab_.unk, "at offset", kShardHeaderBytes + 2 * (at - ids.begin()),
                           "stands for something unknown, and no byte is"));
    int64_t own_odd = 0, other_odd = 0, largest = 0;
    for (const int32_t id : ids) {
      own_odd += is_odd(vocab_, id);
      other_odd += is_odd(other, id);
      largest = std::max<int64_t>(largest, id);
    }
    const bool can_be_other = largest < other.size && (other.bos < 0 || find_id(other.bos) != ids.end());
    if (can_be_other && own_odd > 8 * other_odd)
      bad(part.path, words(declares, "of its first", ids.size(), "ids", own_odd, "are control characters, but",
                           other_odd, "as", other.name));
  }
  if (!has_bos)
    bad(part.path,
        words(declares, "none of its", part.count, "ids is the bos", vocab_.bos, "that opens every document"));
  undeclared_.push_back(part.path);
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
  std::array<uint16_t, kPieceIds> piece;
  while (count > 0) {
    const int64_t n = std::min(count, kPieceIds);
    part.read(first, n, piece.data());
    uint16_t worst = 0;  // one branch per piece, not per id: the loop stays vectorised
    for (int64_t i = 0; i < n; ++i) {
      out[i] = piece[static_cast<size_t>(i)];
      worst = std::max(worst, piece[static_cast<size_t>(i)]);
    }
    if (worst >= vocab_.size) {
      size_t at = 0;
      while (piece[at] < vocab_.size) ++at;
      bad(part.path, words("id", piece[at], "at offset", kShardHeaderBytes + 2 * (first + static_cast<int64_t>(at)),
                           "is outside", describe(vocab_) + "; was it made for another vocabulary?"));
    }
    first += n, out += n, count -= n;
  }
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
