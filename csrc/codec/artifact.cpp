// The records of an artifact: which tensors share one, which coding is smallest, and the way back.
#include "codec/artifact.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "codec/artifact_index.h"
#include "codec/mix_coder.h"
#include "codec/rans.h"
#include "codec/zstd.h"

namespace bg {
namespace {

constexpr size_t kOwnRecordBytes = 64 << 10;  // tensors from this size have a record of their own; smaller ones share
constexpr size_t kSharedRecordBytes = 512 << 10;  // a shared record is closed beyond this, so that reading is parallel
constexpr size_t kMixLimitBytes = 4 << 20;        // beyond this the mixing coder (about 4 MB/s) would make reading slow
constexpr int64_t kGridElements = 4096;           // smaller int8 matrices are not worth classes of their own
constexpr size_t kMaxFileBytes = size_t{64} << 30;
// What unpacks to more than this, and to more than so many times its own bytes, is decoded once for nothing before
// memory is taken for it. Trained weights never are.
constexpr size_t kBelievedBytes = 1 << 20;
constexpr size_t kBelievedRatio = 32;

bool is_believed(uint64_t raw_bytes, uint64_t stored_bytes) {
  return raw_bytes <= kBelievedBytes || raw_bytes / kBelievedRatio <= stored_bytes;
}

/// Rows and columns of a tensor for the grid coder: the first dimension against the rest; a vector is one row.
GridView grid_of(const std::vector<int64_t>& dims, std::span<const uint8_t> bytes) {
  GridView g;
  g.rows = dims.size() < 2 ? 1 : dims[0];
  g.columns = g.rows == 0 ? 0 : static_cast<int64_t>(bytes.size()) / g.rows;
  g.values = {reinterpret_cast<const int8_t*>(bytes.data()), bytes.size()};
  return g;
}

/// Byte b of every element, for each b: equal bytes come together, which is what zstd needs.
void split_planes(std::span<const uint8_t> in, size_t width, uint8_t* out) {
  const size_t n = in.size() / width;
  for (size_t b = 0; b < width; ++b) {
    for (size_t i = 0; i < n; ++i) out[b * n + i] = in[i * width + b];
  }
}

/// The way back: takes the planes of several tensors, one after the other, in pieces of any size.
class PlaneJoiner {
 public:
  struct Target {
    std::span<uint8_t> out;
    size_t width;
  };
  explicit PlaneJoiner(std::vector<Target> targets) : targets_(std::move(targets)) {}
  void take(std::span<const uint8_t> piece) {
    while (!piece.empty()) {
      const auto [out, width] = targets_[tensor_];
      if (at_ == out.size()) {
        ++tensor_, at_ = 0;
        continue;
      }
      const size_t n = out.size() / width, plane = at_ / n, first = at_ % n, count = std::min(piece.size(), n - first);
      for (size_t i = 0; i < count; ++i) out[(first + i) * width + plane] = piece[i];
      at_ += count;
      piece = piece.subspan(count);
    }
  }

 private:
  std::vector<Target> targets_;
  size_t tensor_ = 0, at_ = 0;
};

/// The smallest of raw, zstd and mix for one record of the index.
Bytes code_record(const ArtifactIndex& index, RecordInfo& record, std::span<const TensorView> tensors) {
  Bytes raw, planes;
  raw.reserve(record.raw_bytes);
  planes.resize(record.raw_bytes);
  for (uint32_t id : record.tensors) {
    const TensorView& t = tensors[id];
    split_planes(t.bytes, size_of(t.dtype), planes.data() + raw.size());
    raw.insert(raw.end(), t.bytes.begin(), t.bytes.end());
  }
  record.coding = Coding::raw;
  Bytes zstd = zstd_compress(planes, raw.size() <= kMixLimitBytes ? 22 : 9);
  Bytes mix;
  if (raw.size() <= kMixLimitBytes) mix = encode_mix(mix_parts(index, record), raw);
  Bytes best = std::move(raw);
  if (zstd.size() < best.size()) best = std::move(zstd), record.coding = Coding::zstd;
  if (!mix.empty() && mix.size() < best.size() && record.raw_bytes <= kMaxMixRatio * mix.size())
    best = std::move(mix), record.coding = Coding::mix;
  return best;
}

/// One record with all int8 matrices that gain from it: model, stream sizes, streams. `ids` loses the others.
Bytes code_grids(ThreadPool& pool, std::span<const TensorView> tensors, std::vector<uint32_t>& ids) {
  std::vector<size_t> without(ids.size());  // bytes of each tensor when coded otherwise, at most
  pool.parallel_for(static_cast<int64_t>(ids.size()), [&](int64_t i) {
    const auto bytes = tensors[ids[i]].bytes;
    without[i] = std::min(bytes.size(), zstd_compress(bytes, 3).size());
  });
  // What zstd shrinks to almost nothing (a table that never learnt) is known to lose; a second fit is spared.
  size_t kept_count = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (64 * without[i] < tensors[ids[i]].bytes.size()) continue;
    ids[kept_count] = ids[i];
    without[kept_count++] = without[i];
  }
  ids.resize(kept_count);
  without.resize(kept_count);
  while (!ids.empty()) {
    std::vector<GridView> grids;
    for (uint32_t id : ids) grids.push_back(grid_of(tensors[id].dims, tensors[id].bytes));
    const GridModel model = fit_grid(pool, grids);
    const GridTables tables(model);
    std::vector<Bytes> streams(ids.size());
    pool.parallel_for(static_cast<int64_t>(ids.size()),
                      [&](int64_t i) { streams[i] = encode_grid(tables, model.classes[i], grids[i]); });
    std::vector<uint32_t> kept;
    std::vector<size_t> kept_without;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (streams[i].size() < without[i]) kept.push_back(ids[i]), kept_without.push_back(without[i]);
    }
    if (kept.size() < ids.size()) {  // the losers leave and the model is fitted to the rest
      ids = std::move(kept);
      without = std::move(kept_without);
      continue;
    }
    const Bytes head = write_grid_model(model);
    Bytes out;
    append_le(out, head.size(), 8);
    for (const Bytes& s : streams) append_le(out, s.size(), 8);
    out.insert(out.end(), head.begin(), head.end());
    for (const Bytes& s : streams) out.insert(out.end(), s.begin(), s.end());
    // Classes and tables must pay for themselves, too.
    if (out.size() < std::accumulate(without.begin(), without.end(), size_t{0})) return out;
    ids.clear();
  }
  return {};
}

void check_tensors(std::span<const TensorView> tensors) {
  BG_CHECK(tensors.size() <= kMaxArtifactTensors, tensors.size(), "tensors, but an artifact holds", kMaxArtifactTensors,
           "at most");
  std::set<std::string_view> names;
  for (const TensorView& t : tensors) {
    BG_CHECK(!t.name.empty() && t.name.size() <= 1024 && is_utf8(t.name),
             "a tensor's name must be 1 to 1024 bytes of UTF-8, got", t.name);
    BG_CHECK(!has_control(t.name), "a tensor's name holds a control character");
    BG_CHECK(names.insert(t.name).second, "two tensors are called", t.name);
    BG_CHECK(t.dims.size() <= 8, "tensor", t.name, "has rank", t.dims.size(), "but 8 is the most");
    uint64_t elements = 1, extent = 1;
    for (int64_t d : t.dims) {
      BG_CHECK(d >= 0, "tensor", t.name, "has a negative dimension");
      const uint64_t positive = std::max<uint64_t>(static_cast<uint64_t>(d), 1);
      BG_CHECK(extent <= (uint64_t{1} << 40) / positive, "tensor", t.name, "has more than 2^40 elements");
      extent *= positive;
      elements *= static_cast<uint64_t>(d);
    }
    BG_CHECK(elements * size_of(t.dtype) == t.bytes.size(), "tensor", t.name, "has", t.bytes.size(),
             "bytes, its shape says", elements * size_of(t.dtype));
  }
}

/// Puts every tensor into a record: the grids (given) into one, large others alone, small ones together.
void plan_records(ArtifactIndex& index, const std::set<uint32_t>& grids) {
  int64_t shared = -1;
  for (uint32_t id = 0; id < index.tensors.size(); ++id) {
    TensorInfo& t = index.tensors[id];
    if (grids.count(id)) continue;
    if (t.bytes >= kOwnRecordBytes || shared < 0 || index.records[shared].raw_bytes > kSharedRecordBytes) {
      if (t.bytes < kOwnRecordBytes) shared = static_cast<int64_t>(index.records.size());
      t.record = static_cast<uint32_t>(index.records.size());
      index.records.emplace_back();
    } else {
      t.record = static_cast<uint32_t>(shared);
    }
    index.records[t.record].raw_bytes += t.bytes;
    index.records[t.record].tensors.push_back(id);
  }
}

/// The streams of a grid record, checked against its size.
struct GridRecord {
  GridModel model;
  std::vector<std::span<const uint8_t>> streams;
  size_t model_bytes = 0;
};

GridRecord open_grids(const ArtifactIndex& index, const RecordInfo& record, std::span<const uint8_t> bytes,
                      const std::string& what) {
  GridRecord out;
  const size_t n = record.tensors.size(), head = 8 * (n + 1);
  if (bytes.size() < head) throw FormatError(what + ": ends inside its table of sizes");
  uint64_t left = bytes.size() - head;
  const uint64_t model_bytes = load_le(bytes.data(), 8);
  size_t at = head;
  const auto next = [&](uint64_t size) {
    if (size > left) throw FormatError(what + ": " + words("a part of", size, "bytes, but only", left, "are left"));
    left -= size;
    const auto part = bytes.subspan(at, static_cast<size_t>(size));
    at += part.size();
    return part;
  };
  const auto model = next(model_bytes);
  std::vector<GridView> shapes;
  for (size_t i = 0; i < n; ++i) {
    out.streams.push_back(next(load_le(bytes.data() + 8 * (i + 1), 8)));
    const TensorInfo& t = index.tensors[record.tensors[i]];
    GridView shape;
    shape.rows = t.dims.size() < 2 ? 1 : t.dims[0];
    shape.columns = static_cast<int64_t>(t.elements) / shape.rows;
    shapes.push_back(shape);
  }
  if (left != 0) throw FormatError(what + ": " + words(left, "bytes too many"));
  out.model_bytes = head + static_cast<size_t>(model_bytes);
  out.model = read_grid_model(model, shapes, what);
  return out;
}

}  // namespace

const char* name_of(Coding coding) {
  constexpr const char* kNames[] = {"raw", "zstd", "mix", "grid"};
  return kNames[static_cast<int>(coding)];
}

Bytes pack_artifact(ThreadPool& pool, std::span<const TensorView> tensors, std::string_view config) {
  check_tensors(tensors);
  BG_CHECK(is_utf8(config) && !has_control(config, kConfigControls),
           "the config of an artifact must be UTF-8 without control characters");
  BG_CHECK(config.size() <= kMaxConfigBytes, "a config of", config.size(), "bytes; 1 MiB is allowed");
  ArtifactIndex index;
  index.config = config;
  std::vector<uint32_t> grids;
  for (const TensorView& t : tensors) {
    const GridView g = grid_of(t.dims, t.bytes);
    if (t.dtype == DType::i8 && g.rows * g.columns >= kGridElements && std::min(g.rows, g.columns) >= 8) {
      grids.push_back(static_cast<uint32_t>(index.tensors.size()));
    }
    TensorInfo info;
    info.name = t.name;
    info.dtype = t.dtype;
    info.dims = t.dims;
    info.bytes = t.bytes.size();
    index.tensors.push_back(std::move(info));
  }
  Bytes grid_bytes = code_grids(pool, tensors, grids);
  plan_records(index, {grids.begin(), grids.end()});
  std::vector<Bytes> coded(index.records.size());
  pool.parallel_for(static_cast<int64_t>(coded.size()),
                    [&](int64_t i) { coded[i] = code_record(index, index.records[i], tensors); });
  if (!grids.empty()) {
    RecordInfo r;
    r.coding = Coding::grid;
    for (uint32_t id : grids) {
      index.tensors[id].record = static_cast<uint32_t>(index.records.size());
      r.raw_bytes += index.tensors[id].bytes;
    }
    index.records.push_back(std::move(r));
    coded.push_back(std::move(grid_bytes));
  }
  for (size_t i = 0; i < coded.size(); ++i) index.records[i].stored_bytes = coded[i].size();
  Bytes out = write_index(index);
  for (const Bytes& c : coded) out.insert(out.end(), c.begin(), c.end());
  const Sha256 digest = sha256(out);
  out.insert(out.end(), digest.begin(), digest.end());
  return out;
}

namespace {

Artifact decode(ThreadPool& pool, const ArtifactIndex& index, std::span<const uint8_t> file, const std::string& path,
                Keep keep) {
  Artifact out;
  out.config = index.config;
  out.file_bytes = file.size();
  out.frame_bytes = file.size();
  for (const TensorInfo& t : index.tensors) {
    StoredTensor s;
    s.name = t.name;
    s.dtype = t.dtype;
    s.dims = t.dims;
    s.coding = index.records[t.record].coding;
    out.tensors.push_back(std::move(s));
  }
  const auto size = [&](uint32_t id) { return static_cast<size_t>(index.tensors[id].bytes); };
  const auto decode_plain = [&](const RecordInfo& r, const std::string& what) {
    const auto stored = file.subspan(r.offset, r.stored_bytes);
    std::vector<size_t> shares(r.tensors.size());
    Bytes raw;  // what a mix record decodes to; its tensors are predicted from each other
    if (r.coding == Coding::mix) {
      raw.resize(r.raw_bytes);
      decode_mix(mix_parts(index, r), stored, raw, shares, what);
    }
    const auto nowhere = [](std::span<const uint8_t>) {};
    if (r.coding == Coding::zstd && (keep == Keep::nothing || !is_believed(r.raw_bytes, r.stored_bytes)))
      zstd_stream(stored, r.raw_bytes, what, nowhere);
    if (keep == Keep::bytes) {
      const auto flat = r.coding == Coding::mix ? std::span<const uint8_t>(raw) : stored;
      std::vector<PlaneJoiner::Target> targets;
      size_t at = 0;
      if (r.coding == Coding::zstd) zstd_check(stored, r.raw_bytes, what);
      for (const uint32_t id : r.tensors) {
        StoredTensor& t = out.tensors[id];
        t.bytes.resize(size(id));
        targets.push_back({t.bytes, size_of(t.dtype)});
        if (r.coding != Coding::zstd && size(id) != 0) std::memcpy(t.bytes.data(), flat.data() + at, size(id));
        at += size(id);
      }
      if (r.coding == Coding::zstd) {
        PlaneJoiner joiner(std::move(targets));
        zstd_stream(stored, r.raw_bytes, what, [&](std::span<const uint8_t> piece) { joiner.take(piece); });
      }
    }
    size_t at = 0;
    for (size_t i = 0; i < r.tensors.size(); ++i) {
      const size_t end = at + size(r.tensors[i]);
      // Shares by size, cut so that they add up to the record.
      const auto cut = [&](size_t n) {
        return r.raw_bytes == 0 ? 0
                                : static_cast<size_t>(static_cast<double>(n) / static_cast<double>(r.raw_bytes) *
                                                      static_cast<double>(stored.size()));
      };
      out.tensors[r.tensors[i]].stored_bytes = r.coding == Coding::mix ? shares[i] : cut(end) - cut(at);
      at = end;
    }
  };

  // The slow records first, so that the cores finish together.
  std::vector<std::pair<double, std::function<void()>>> tasks;
  std::vector<std::unique_ptr<GridTables>> all_tables;
  std::vector<std::unique_ptr<GridRecord>> all_grids;
  for (size_t i = 0; i < index.records.size(); ++i) {
    const RecordInfo& r = index.records[i];
    const std::string what = path + ": byte " + std::to_string(r.offset) + ": record " + std::to_string(i) + " (" +
                             name_of(r.coding) + ", tensor " + index.tensors[r.tensors[0]].name +
                             (r.tensors.size() > 1 ? " and " + std::to_string(r.tensors.size() - 1) + " more)" : ")");
    out.frame_bytes -= r.stored_bytes;
    const double weight = static_cast<double>(r.raw_bytes) * (r.coding == Coding::mix ? 50 : 1);
    if (r.coding != Coding::grid) {
      tasks.emplace_back(weight, [&decode_plain, &r, what] { decode_plain(r, what); });
      continue;
    }
    GridRecord& g = *all_grids.emplace_back(
        std::make_unique<GridRecord>(open_grids(index, r, file.subspan(r.offset, r.stored_bytes), what)));
    const GridTables& tables = *all_tables.emplace_back(std::make_unique<GridTables>(g.model));
    out.model_bytes += g.model_bytes;
    for (size_t k = 0; k < r.tensors.size(); ++k) {
      StoredTensor& t = out.tensors[r.tensors[k]];
      const size_t bytes = size(r.tensors[k]);
      t.stored_bytes = g.streams[k].size();
      tasks.emplace_back(static_cast<double>(bytes), [&g, &tables, &t, bytes, k, &path, &r, keep] {
        const std::string tensor = path + ": record at byte " + std::to_string(r.offset) + ": tensor " + t.name;
        if (keep == Keep::nothing || !is_believed(bytes, g.streams[k].size()))
          check_grid(tables, g.model.classes[k], g.streams[k], tensor);
        if (keep == Keep::nothing) return;
        t.bytes.resize(bytes);
        decode_grid(tables, g.model.classes[k], g.streams[k], {reinterpret_cast<int8_t*>(t.bytes.data()), bytes},
                    tensor);
      });
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  pool.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t i) { tasks[i].second(); });
  return out;
}

}  // namespace

Artifact unpack_artifact(ThreadPool& pool, std::span<const uint8_t> file, const std::string& path, Keep keep,
                         uint64_t max_decoded_bytes) {
  return decode(pool, read_index(file, path, max_decoded_bytes), file, path, keep);
}

struct ArtifactReader::Impl {
  std::string path;
  Bytes file;
  ArtifactIndex index;
  Artifact front;
};

ArtifactReader::ArtifactReader(const std::string& path, uint64_t max_decoded_bytes) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->file = read_file(path, kMaxFileBytes);
  impl_->index = read_index(impl_->file, path, max_decoded_bytes);
  impl_->front.config = impl_->index.config;
  impl_->front.file_bytes = impl_->file.size();
  for (const TensorInfo& t : impl_->index.tensors)
    impl_->front.tensors.push_back({t.name, t.dtype, t.dims, {}, impl_->index.records[t.record].coding, 0});
}
ArtifactReader::~ArtifactReader() = default;

const Artifact& ArtifactReader::front() const {
  return impl_->front;
}

Artifact ArtifactReader::read(ThreadPool& pool, Keep keep) const {
  return decode(pool, impl_->index, impl_->file, impl_->path, keep);
}

size_t write_artifact(ThreadPool& pool, const std::string& path, std::span<const TensorView> tensors,
                      std::string_view config) {
  const Bytes bytes = pack_artifact(pool, tensors, config);
  write_file_atomic(path, bytes);
  return bytes.size();
}

}  // namespace bg
