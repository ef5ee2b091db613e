// What unpack_artifact does with any bytes: an artifact or FormatError, never a bad access and never memory without
// bounds.
//
// Most mutations change the index or the records and then make sizes and checksum right again, so that the readers
// behind the checksum are reached.
#include <zstd.h>

#include <optional>
#include <string>

#include "base/check.h"
#include "base/hash.h"
#include "codec/artifact.h"
#include "codec/artifact_index.h"
#include "codec/grid_model.h"
#include "codec/mix_coder.h"
#include "codec/rans.h"
#include "fuzz/input.h"

namespace bg::fuzz {
namespace {

constexpr size_t kMaxIndexBytes = 1 << 20;

ThreadPool& pool() {
  static ThreadPool one(1);
  return one;
}

/// An artifact taken apart.
struct Parts {
  Bytes index, records;
};

Bytes compressed(std::span<const uint8_t> bytes) {
  static ZSTD_CCtx* context = ZSTD_createCCtx();
  Bytes out(ZSTD_compressBound(bytes.size()));
  out.resize(ZSTD_compressCCtx(context, out.data(), out.size(), bytes.data(), bytes.size(), 1));
  return out;
}

void put(Bytes& file, size_t at, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes && at + i < file.size(); ++i) file[at + i] = static_cast<uint8_t>(value >> (8 * i));
}

/// Makes the stated size and the checksum right.
void seal(Bytes& file) {
  if (file.size() < kArtifactHeaderBytes + kArtifactChecksumBytes) return;
  put(file, 32, file.size(), 8);
  const size_t sealed = file.size() - kArtifactChecksumBytes;
  const Sha256 digest = sha256(std::span<const uint8_t>(file).first(sealed));
  std::copy(digest.begin(), digest.end(), file.begin() + static_cast<ptrdiff_t>(sealed));
}

std::optional<Parts> take_apart(std::span<const uint8_t> file) {
  constexpr size_t kFrame = kArtifactHeaderBytes + kArtifactChecksumBytes;
  if (file.size() < kFrame || std::memcmp(file.data(), kArtifactMagic, 8) != 0) return {};
  const uint64_t raw = load_le(&file[16], 8), stored = load_le(&file[24], 8);
  if (stored > file.size() - kFrame || raw > kMaxIndexBytes) return {};
  Parts parts;
  parts.index.resize(static_cast<size_t>(raw));
  const size_t got = ZSTD_decompress(parts.index.data(), parts.index.size(), &file[kArtifactHeaderBytes], stored);
  if (ZSTD_isError(got) || got != raw) return {};
  const auto records = file.subspan(kArtifactHeaderBytes + stored, file.size() - kFrame - stored);
  parts.records.assign(records.begin(), records.end());
  return parts;
}

Bytes assemble(const Parts& parts) {
  const Bytes frame = compressed(parts.index);
  Bytes file(kArtifactMagic, kArtifactMagic + 8);
  append_le(file, kArtifactVersion, 4);
  append_le(file, 0, 4);
  append_le(file, parts.index.size(), 8);
  append_le(file, frame.size(), 8);
  append_le(file, 0, 8);
  file.insert(file.end(), frame.begin(), frame.end());
  file.insert(file.end(), parts.records.begin(), parts.records.end());
  file.resize(file.size() + kArtifactChecksumBytes);
  seal(file);
  return file;
}

/// Where the table of records starts in an index, and how many there are.
struct Table {
  size_t first = 0, count = 0;
};
Table table_of(const Bytes& index) {
  if (index.size() < 8) return {};
  const uint64_t config = load_le(index.data(), 4);
  if (config > index.size() - 8) return {};
  const uint64_t count = load_le(&index[4 + config], 4);
  const size_t first = 8 + static_cast<size_t>(config);
  return {first, static_cast<size_t>(std::min<uint64_t>(count, (index.size() - first) / 17))};
}

/// Values that fall off from the middle, as weights do.
Bytes values(Draw& draw, size_t n, size_t spread) {
  Bytes out(n);
  for (uint8_t& v : out) v = static_cast<uint8_t>(draw.below(spread) + draw.below(spread) - spread);
  return out;
}

/// One record of each coding, the grids tiny, so that mutations soon find what matters.
Bytes of_every_coding(Draw& draw) {
  ArtifactIndex index;
  index.config = "num_layers = 2\n";
  Bytes records;
  const auto tensor = [&](std::string name, DType dtype, std::vector<int64_t> dims, size_t bytes) {
    TensorInfo t;
    t.name = std::move(name);
    t.dtype = dtype;
    t.dims = std::move(dims);
    t.bytes = bytes;
    t.record = static_cast<uint32_t>(index.records.size());
    index.tensors.push_back(std::move(t));
  };
  const auto record = [&](Coding coding, size_t raw, const Bytes& stored) {
    RecordInfo r;
    r.coding = coding;
    r.raw_bytes = raw;
    r.stored_bytes = stored.size();
    index.records.push_back(std::move(r));
    records.insert(records.end(), stored.begin(), stored.end());
  };
  if (!draw.one_in(4)) {  // grids
    const std::vector<int64_t> shape = {static_cast<int64_t>(1 + draw.below(9)),
                                        static_cast<int64_t>(1 + draw.below(17))};
    const size_t n = static_cast<size_t>(shape[0] * shape[1]);
    const Bytes a = values(draw, n, 4), b = values(draw, 24, 2);
    const auto view = [](const Bytes& v, int64_t rows) {
      GridView g;
      g.rows = rows;
      g.columns = static_cast<int64_t>(v.size()) / rows;
      g.values = {reinterpret_cast<const int8_t*>(v.data()), v.size()};
      return g;
    };
    const std::vector<GridView> grids = {view(a, shape[0]), view(b, 1)};
    const GridModel model = fit_grid(pool(), grids);
    const GridTables tables(model);
    const Bytes head = write_grid_model(model);
    std::vector<Bytes> streams;
    for (size_t i = 0; i < grids.size(); ++i) streams.push_back(encode_grid(tables, model.classes[i], grids[i]));
    Bytes stored;
    append_le(stored, head.size(), 8);
    for (const Bytes& s : streams) append_le(stored, s.size(), 8);
    stored.insert(stored.end(), head.begin(), head.end());
    for (const Bytes& s : streams) stored.insert(stored.end(), s.begin(), s.end());
    tensor("a.q", DType::i8, shape, n);
    tensor("b.q", DType::i8, {24}, b.size());
    record(Coding::grid, a.size() + b.size(), stored);
  }
  if (!draw.one_in(4)) {  // mixed: two that are similar, one of eight bytes an element
    const Bytes raw = values(draw, 16 + 16 + 16, 8);
    const std::vector<MixPart> parts = {{16, 2, -1}, {16, 2, 0}, {16, 8, -1}};
    tensor("l.0.scale", DType::f16, {8}, 16);
    tensor("l.1.scale", DType::f16, {8}, 16);
    tensor("i", DType::i64, {2}, 16);
    record(Coding::mix, raw.size(), encode_mix(parts, raw));
  }
  if (!draw.one_in(4)) {
    tensor("z", DType::f32, {3, 4}, 48);
    tensor("none", DType::u8, {0, 7}, 0);
    record(Coding::zstd, 48, compressed(Bytes(48, static_cast<uint8_t>(draw.bits()))));
  }
  if (!draw.one_in(4)) {
    tensor("r", DType::bf16, {}, 2);
    record(Coding::raw, 2, values(draw, 2, 3));
  }
  Bytes file = write_index(index);
  file.insert(file.end(), records.begin(), records.end());
  file.resize(file.size() + kArtifactChecksumBytes);
  seal(file);
  return file;
}

Bytes mutated(std::span<const uint8_t> file, Draw& draw, size_t room) {
  std::optional<Parts> parts = take_apart(file);
  if (!parts || draw.one_in(16)) {
    if (!parts || draw.one_in(8)) return of_every_coding(draw);
    Bytes any(file.begin(), file.end());
    mutate(any, room);
    if (!draw.one_in(4)) seal(any);
    return any;
  }
  const Table table = table_of(parts->index);
  switch (draw.below(8)) {
    case 0:
    case 1:
      mutate(parts->index, std::min<size_t>(room, 64));
      break;
    case 2: {  // a number of a record
      if (table.count == 0) break;
      const size_t at = table.first + 17 * draw.below(table.count);
      if (draw.one_in(3))
        parts->index[at] = static_cast<uint8_t>(draw.below(5));
      else
        put(parts->index, at + (draw.one_in(2) ? 1 : 9), draw.awkward(), 8);
      break;
    }
    case 3: {  // a number anywhere
      if (parts->index.empty()) break;
      const size_t bytes = size_t{1} << draw.below(4);
      put(parts->index, draw.below(parts->index.size()), draw.awkward(), bytes);
      break;
    }
    default: {  // the records, of which the last takes what the change brings
      const size_t before = parts->records.size();
      if (draw.one_in(3) && before > 0) {
        put(parts->records, draw.below(before), draw.awkward(), size_t{1} << draw.below(4));
        break;
      }
      mutate(parts->records, std::min<size_t>(room, 64));
      if (table.count == 0 || draw.one_in(16)) break;
      const size_t at = table.first + 17 * (table.count - 1) + 9;
      put(parts->index, at, load_le(&parts->index[at], 8) + parts->records.size() - before, 8);
    }
  }
  return assemble(*parts);
}

void try_it(std::span<const uint8_t> file) {
  try {
    const Artifact a = unpack_artifact(pool(), file, "fuzz.bg");
    size_t total = 0;
    for (const StoredTensor& t : a.tensors) {
      size_t elements = 1;
      for (int64_t d : t.dims) elements *= static_cast<size_t>(d);
      require(elements * size_of(t.dtype) == t.bytes.size());
      total += t.bytes.size();
    }
    // Now and then: what was accepted is packed and comes back.
    if (total > 4096 || file.back() != 0) return;  // by the checksum: one in 256
    std::vector<TensorView> views;
    for (const StoredTensor& t : a.tensors) views.push_back({t.name, t.dtype, t.dims, t.bytes});
    const Bytes again = pack_artifact(pool(), views, a.config);
    const Artifact b = unpack_artifact(pool(), again, "again.bg");
    require(a.config == b.config && a.tensors.size() == b.tensors.size());
    for (size_t i = 0; i < a.tensors.size(); ++i) {
      const StoredTensor &x = a.tensors[i], &y = b.tensors[i];
      require(x.name == y.name && x.dtype == y.dtype && x.dims == y.dims && x.bytes == y.bytes);
    }
  } catch (const FormatError&) {  // what a reader may say
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
