// Which ids a data set holds: checked shard files presented as one logical stream.
//
// A shard is 256 little-endian int32 (magic 20240520, version 1, number of ids, size of the vocabulary or 0 for
// unknown, zeros), then that many little-endian uint16 ids. Other programs of this format ignore the fourth number.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/vocab.h"

namespace bg {

inline constexpr int32_t kShardMagic = 20240520;
inline constexpr int32_t kShardVersion = 1;
inline constexpr int64_t kShardHeaderBytes = 256 * 4;

/// What one word for shards (a file, a folder, a glob) means on the disk.
struct ShardFiles {
  std::string folder;              // that holds them; "." for the working directory
  std::string pattern;             // glob that their names match
  bool is_file = false;            // one file was named: `pattern` is its name, not a glob
  std::vector<std::string> paths;  // sorted by name

  bool matches(const std::string& name) const;
};

/// Each of `where` is a file (which need not exist), a folder (its *.bin) or a glob over file names. `split` ("train",
/// "val" or "") picks in a folder that holds both *train_*.bin and *val_*.bin; "" refuses such a folder, so that
/// validation bytes are never trained on by accident. Throws InvalidArgument when a folder or glob gives nothing.
std::vector<ShardFiles> find_shards(std::span<const std::string> where, const std::string& split = "");

/// One logical stream of ids over any number of shards, or over an array in memory. Immutable, hence shared freely
/// between threads. Nothing is read before it is asked for; every id is checked on its way out.
///
/// Files are read, never mapped: one that is truncated in use is a FormatError, not a signal. The first
/// kOpenFiles of a set stay open, so that a file that is replaced or removed is read on as it was; the others
/// are opened for each read, and refused when another file is there.
class ShardSet {
 public:
  struct Shard {
    std::string path;  // or the name of an array in memory
    int64_t ids;
  };

  /// The files of find_shards(where, split). Throws InvalidArgument when nothing is there; FormatError naming path and
  /// offset for a short, foreign, empty, oversized or otherwise damaged shard, or one written for another vocabulary. A
  /// shard that declares no vocabulary is refused where its ids tell that it is another's, see notes().
  static std::shared_ptr<const ShardSet> open(std::span<const std::string> where, const Vocab& vocab,
                                              const std::string& split = "");
  static std::shared_ptr<const ShardSet> open(const std::string& where, const Vocab& vocab,
                                              const std::string& split = "");
  /// The same, of files that were found before.
  static std::shared_ptr<const ShardSet> open(std::span<const ShardFiles> files, const Vocab& vocab);
  /// The ids themselves; throws InvalidArgument naming the first index outside the vocabulary, or for no ids at all.
  static std::shared_ptr<const ShardSet> of_ids(std::vector<uint16_t> ids, const Vocab& vocab,
                                                const std::string& name = "array of ids");

  ~ShardSet();
  ShardSet(const ShardSet&) = delete;
  ShardSet& operator=(const ShardSet&) = delete;

  const Vocab& vocab() const { return vocab_; }
  int64_t size() const { return starts_.back(); }  // ids in all shards
  std::vector<Shard> shards() const;
  /// What a user should know but need not mend, one sentence each: shards that declare no vocabulary, hence what was
  /// assumed.
  const std::vector<std::string>& notes() const { return notes_; }

  /// Copies ids first..first+count-1 to `out` (count). The stream is a ring when `ring`: after the last id comes the
  /// first. Throws FormatError naming shard and byte offset when an id is outside the vocabulary or the file has
  /// changed its length since it was opened, SystemError when the disk fails, InvalidArgument when the range leaves the
  /// stream.
  void read(int64_t first, int64_t count, int32_t* out, bool ring = false) const;
  /// Reads everything once, on `threads` threads: throws as read() does.
  void check(int threads = 1) const;

 private:
  static constexpr size_t kOpenFiles = 256;  // of the 1024 that a process usually may hold

  struct Part;  // one shard
  explicit ShardSet(const Vocab& vocab);
  void add(std::unique_ptr<Part> part);
  void add_file(const std::string& path);
  void check_undeclared(const Part& part);
  void copy(const Part& part, int64_t first, int64_t count, int32_t* out) const;

  const Vocab& vocab_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::vector<int64_t> starts_{0};  // starts_[i]: stream position of shard i's first id
  std::vector<std::string> notes_;
  std::vector<std::string> undeclared_;  // paths of shards without a vocabulary
};

}  // namespace bg
