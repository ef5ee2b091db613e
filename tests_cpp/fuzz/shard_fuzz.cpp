// What ShardSet does with a file of any bytes: a stream whose ids are all inside the vocabulary, or FormatError.
//
// Most mutations make the count of ids in the header right again, so that the ids behind it are reached.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>

#include "base/check.h"
#include "data/shard.h"
#include "fuzz/input.h"

namespace bg::fuzz {
namespace {

/// A file in memory that holds `bytes`, under a path that open() takes.
std::string path_of(std::span<const uint8_t> bytes) {
  static const int file = ::memfd_create("shard", 0);
  require(file >= 0 && ::ftruncate(file, static_cast<off_t>(bytes.size())) == 0);
  require(::pwrite(file, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()));
  return "/proc/self/fd/" + std::to_string(file);
}

void count_ids(Bytes& file) {
  if (file.size() < kShardHeaderBytes) return;
  const auto count = static_cast<int32_t>((file.size() - kShardHeaderBytes) / 2);
  std::memcpy(file.data() + 8, &count, 4);
}

Bytes valid(Draw& draw) {
  const size_t n = 1 + draw.below(40);
  const int32_t vocabularies[] = {0, 256, 260};
  const int32_t header[] = {kShardMagic, kShardVersion, static_cast<int32_t>(n), vocabularies[draw.below(3)]};
  Bytes file(kShardHeaderBytes + 2 * n);
  std::memcpy(file.data(), header, sizeof header);
  for (size_t i = 0; i < n; ++i) {
    const auto id = static_cast<uint16_t>(draw.below(262));
    std::memcpy(file.data() + kShardHeaderBytes + 2 * i, &id, 2);
  }
  return file;
}

Bytes mutated(std::span<const uint8_t> given, Draw& draw, size_t room) {
  if (given.size() < kShardHeaderBytes || draw.one_in(64)) {
    if (draw.one_in(4)) {
      Bytes any(given.begin(), given.end());
      mutate(any, room);
      return any;
    }
    return valid(draw);
  }
  Bytes file(given.begin(), given.end());
  if (draw.one_in(2)) {  // the ids
    Bytes ids(file.begin() + kShardHeaderBytes, file.end());
    mutate(ids, std::min<size_t>(room, 32));
    file.resize(kShardHeaderBytes);
    file.insert(file.end(), ids.begin(), ids.end());
    if (!draw.one_in(8)) count_ids(file);
  } else if (draw.one_in(2)) {  // a number of the header
    const auto value = static_cast<uint32_t>(draw.awkward());
    std::memcpy(file.data() + 4 * draw.below(5), &value, 4);
  } else {
    mutate(file, std::min<size_t>(room, 32));
    if (draw.one_in(2)) count_ids(file);
  }
  return file;
}

void try_it(std::span<const uint8_t> bytes) {
  const std::string path = path_of(bytes);
  for (const Vocab* vocab : {&kByte260, &kByte256}) {
    try {
      const auto set = ShardSet::open(path, *vocab);
      require(kShardHeaderBytes + 2 * set->size() == static_cast<int64_t>(bytes.size()));
      std::vector<int32_t> ids(static_cast<size_t>(set->size()) + 3);
      set->read(0, static_cast<int64_t>(ids.size()), ids.data(), true);
      for (size_t i = 0; i < ids.size(); ++i) {
        require(ids[i] >= 0 && ids[i] < vocab->size);
        uint16_t stored = 0;
        const size_t at = i % static_cast<size_t>(set->size());
        std::memcpy(&stored, bytes.data() + kShardHeaderBytes + 2 * at, 2);
        require(ids[i] == stored);
      }
      set->check();
    } catch (const FormatError&) {  // what a reader may say
    }
  }
}

}  // namespace
}  // namespace bg::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bg::fuzz::try_it({data, size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  bg::fuzz::Draw draw(seed);
  return bg::fuzz::give(bg::fuzz::mutated({data, size}, draw, max_size - size), data, max_size);
}
