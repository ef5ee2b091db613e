#include "codec/artifact_index.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "codec/zstd.h"

namespace bg {
namespace {

constexpr uint64_t kMaxIndexBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxElements = uint64_t{1} << 40;
// The slowest coding, some 4 MB/s: its time is bounded by one record, and by what all of them store.
constexpr uint64_t kMaxMixBytes = uint64_t{16} << 20;
constexpr uint64_t kFreeMixBytes = uint64_t{4} << 20;
constexpr size_t kMaxName = 1024;
constexpr int kMaxRank = 8;

// The numbers of element types in files; their order is not DType's and never changes.
constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i8, DType::i32,
                             DType::u8,  DType::f64, DType::u16,  DType::i64};

uint8_t code_of(DType dtype) {
  return static_cast<uint8_t>(std::find(std::begin(kDTypes), std::end(kDTypes), dtype) - std::begin(kDTypes));
}

/// Reads the index and says where in it something is wrong.
class Reader {
 public:
  Reader(std::span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path) {}
  uint64_t integer(int size, const char* what) { return load_le(take(static_cast<uint64_t>(size), what), size); }
  std::string text(uint64_t size, const char* what) {
    const uint8_t* p = take(size, what);
    return {reinterpret_cast<const char*>(p), static_cast<size_t>(size)};
  }
  uint64_t left() const { return bytes_.size() - at_; }
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw FormatError(path_ + ": index byte " + std::to_string(at_) + ": " + words(parts...));
  }

 private:
  const uint8_t* take(uint64_t size, const char* what) {
    if (size > left()) fail(what, "of", size, "bytes, but only", left(), "are left");
    const uint8_t* p = bytes_.data() + at_;
    at_ += static_cast<size_t>(size);
    return p;
  }
  std::span<const uint8_t> bytes_;
  const std::string& path_;
  size_t at_ = 0;
};

/// The text with every byte that is not printable ASCII as \\xNN.
std::string visible(std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (byte >= 0x20 && byte < 0x7f)
      out += c;
    else
      out.append("\\x").append(1, kDigits[byte >> 4]).append(1, kDigits[byte & 15]);
  }
  return out;
}

TensorInfo read_tensor(Reader& in, size_t records) {
  TensorInfo t;
  const uint64_t name_bytes = in.integer(2, "length of a name");
  if (name_bytes == 0 || name_bytes > kMaxName) in.fail("a tensor's name of", name_bytes, "bytes");
  t.name = in.text(name_bytes, "name");
  if (!is_utf8(t.name)) in.fail("a tensor's name is not UTF-8");
  if (has_control(t.name)) in.fail("a tensor's name holds a control character:", visible(t.name));
  const uint64_t dtype = in.integer(1, "dtype");
  if (dtype >= std::size(kDTypes)) in.fail("tensor", t.name, "has the unknown dtype", dtype);
  t.dtype = kDTypes[dtype];
  const uint64_t rank = in.integer(1, "rank");
  if (rank > kMaxRank) in.fail("tensor", t.name, "has rank", rank);
  uint64_t extent = 1;  // as elements, but not zeroed by an empty dimension
  for (uint64_t i = 0; i < rank; ++i) {
    const uint64_t d = in.integer(8, "dimension");
    if (d > kMaxElements || extent > kMaxElements / std::max<uint64_t>(d, 1)) {
      in.fail("tensor", t.name, "has an impossible dimension", d);
    }
    extent *= std::max<uint64_t>(d, 1);
    t.elements *= d;
    t.dims.push_back(static_cast<int64_t>(d));
  }
  t.bytes = t.elements * size_of(t.dtype);
  t.record = static_cast<uint32_t>(in.integer(4, "record"));
  if (t.record >= records) in.fail("tensor", t.name, "is in record", t.record, "of", records);
  return t;
}

}  // namespace

uint64_t load_le(const uint8_t* p, int bytes) {
  uint64_t v = 0;
  for (int i = 0; i < bytes; ++i) v |= uint64_t{p[i]} << (8 * i);
  return v;
}

void append_le(Bytes& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

bool has_control(std::string_view utf8, std::string_view but) {
  for (size_t i = 0; i < utf8.size(); ++i) {
    const auto byte = [&](size_t k) { return i + k < utf8.size() ? static_cast<uint8_t>(utf8[i + k]) : 0; };
    if ((byte(0) < 0x20 || byte(0) == 0x7f) && but.find(utf8[i]) == but.npos) return true;
    if (byte(0) == 0xc2 && byte(1) < 0xa0) return true;   // C1
    if (byte(0) == 0xd8 && byte(1) == 0x9c) return true;  // U+061C
    if (byte(0) == 0xe2 && byte(1) == 0x80 &&
        (byte(2) == 0x8e || byte(2) == 0x8f || (byte(2) >= 0xa8 && byte(2) <= 0xae)))
      return true;  // U+200E, U+200F, U+2028..202E
    if (byte(0) == 0xe2 && byte(1) == 0x81 && byte(2) >= 0xa6 && byte(2) <= 0xa9) return true;  // U+2066..2069
  }
  return false;
}

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
    const uint8_t lead = byte(i++);
    if (lead < 0x80) continue;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i < static_cast<size_t>(more)) return false;
    const uint8_t second = byte(i);
    if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f) || (lead == 0xf0 && second < 0x90) ||
        (lead == 0xf4 && second > 0x8f)) {
      return false;
    }
    for (int k = 0; k < more; ++k) {
      if ((byte(i++) & 0xc0) != 0x80) return false;
    }
  }
  return true;
}

std::vector<MixPart> mix_parts(const ArtifactIndex& index, const RecordInfo& record) {
  std::vector<MixPart> parts;
  std::map<std::string, int> last;
  for (uint32_t id : record.tensors) {
    const TensorInfo& t = index.tensors[id];
    std::string key;
    for (size_t i = 0; i < t.name.size(); ++i) {
      const auto digit = [&](size_t k) { return t.name[k] >= '0' && t.name[k] <= '9'; };
      if (!digit(i))
        key += t.name[i];
      else if (i == 0 || !digit(i - 1))
        key += '0';
    }
    key += words("", static_cast<int>(t.dtype), t.bytes);
    MixPart part;
    part.size_bytes = static_cast<size_t>(t.bytes);
    part.element_bytes = size_of(t.dtype);
    if (const auto at = last.find(key); at != last.end()) part.similar = at->second;
    last[key] = static_cast<int>(parts.size());
    parts.push_back(part);
  }
  return parts;
}

Bytes write_index(const ArtifactIndex& index) {
  Bytes raw;
  const auto text = [&](std::string_view s) { raw.insert(raw.end(), s.begin(), s.end()); };
  append_le(raw, index.config.size(), 4);
  text(index.config);
  append_le(raw, index.records.size(), 4);
  uint64_t records_bytes = 0;
  for (const RecordInfo& r : index.records) {
    append_le(raw, static_cast<uint8_t>(r.coding), 1);
    append_le(raw, r.raw_bytes, 8);
    append_le(raw, r.stored_bytes, 8);
    records_bytes += r.stored_bytes;
  }
  append_le(raw, index.tensors.size(), 4);
  for (const TensorInfo& t : index.tensors) {
    append_le(raw, t.name.size(), 2);
    text(t.name);
    append_le(raw, code_of(t.dtype), 1);
    append_le(raw, t.dims.size(), 1);
    for (int64_t d : t.dims) append_le(raw, static_cast<uint64_t>(d), 8);
    append_le(raw, t.record, 4);
  }
  BG_CHECK(raw.size() <= kMaxIndexBytes, "the index of an artifact takes", raw.size(), "bytes; 16 MiB are allowed");
  const Bytes frame = zstd_compress(raw, 22);
  Bytes out(kArtifactMagic, kArtifactMagic + 8);
  append_le(out, kArtifactVersion, 4);
  append_le(out, 0, 4);
  append_le(out, raw.size(), 8);
  append_le(out, frame.size(), 8);
  append_le(out, kArtifactHeaderBytes + frame.size() + records_bytes + kArtifactChecksumBytes, 8);
  out.insert(out.end(), frame.begin(), frame.end());
  return out;
}

ArtifactIndex read_index(std::span<const uint8_t> file, const std::string& path, uint64_t max_decoded_bytes) {
  const auto fail = [&](size_t offset, const std::string& what) {
    throw FormatError(path + ": byte " + std::to_string(offset) + ": " + what);
  };
  constexpr size_t kFrame = kArtifactHeaderBytes + kArtifactChecksumBytes;
  if (file.size() < 8 || std::memcmp(file.data(), kArtifactMagic, 8) != 0) fail(0, "not a bytegolf artifact");
  if (file.size() < kFrame) fail(file.size(), words("the file ends inside the", kFrame, "bytes every artifact has"));
  const uint64_t version = load_le(&file[8], 4);
  if (version != kArtifactVersion)
    fail(8, words("artifact version", version, "but this program reads", kArtifactVersion));
  if (load_le(&file[12], 4) != 0) fail(12, "reserved bytes are not zero");
  const uint64_t index_raw = load_le(&file[16], 8), index_stored = load_le(&file[24], 8),
                 stated = load_le(&file[32], 8);
  if (stated != file.size()) fail(32, words("the file should have", stated, "bytes but has", file.size()));
  if (index_stored > file.size() - kFrame) fail(24, words("an index of", index_stored, "bytes does not fit the file"));
  if (index_raw > kMaxIndexBytes) fail(16, words("an index of", index_raw, "bytes; 16 MiB are allowed"));
  const size_t sealed = file.size() - kArtifactChecksumBytes;
  const Sha256 digest = sha256(file.first(sealed));
  if (std::memcmp(digest.data(), &file[sealed], digest.size()) != 0)
    fail(sealed, "the checksum does not match: damaged file");

  Bytes raw;  // grows with what is decoded, whatever the header says
  zstd_stream(file.subspan(kArtifactHeaderBytes, static_cast<size_t>(index_stored)), index_raw,
              path + ": byte " + std::to_string(kArtifactHeaderBytes) + ": index",
              [&](std::span<const uint8_t> piece) { raw.insert(raw.end(), piece.begin(), piece.end()); });
  Reader in(raw, path);
  ArtifactIndex index;
  const uint64_t config_bytes = in.integer(4, "length of the config");
  if (config_bytes > kMaxConfigBytes) in.fail("a config of", config_bytes, "bytes; 1 MiB is allowed");
  index.config = in.text(config_bytes, "config");
  if (!is_utf8(index.config)) in.fail("the config is not UTF-8");
  if (has_control(index.config, kConfigControls)) in.fail("the config holds a control character");
  const uint64_t records = in.integer(4, "number of records");
  if (records > in.left() / 17) in.fail(records, "records do not fit the index");
  uint64_t offset = kArtifactHeaderBytes + index_stored;
  // Every record but one, which may hold nothing but empty tensors, has a byte of its own.
  if (records > sealed - offset + 1) in.fail(records, "records in", sealed - offset, "bytes");
  uint64_t mixed = 0, mixed_stored = 0;
  int grids = 0;
  for (uint64_t i = 0; i < records; ++i) {
    RecordInfo r;
    const uint64_t coding = in.integer(1, "coding");
    if (coding > static_cast<uint64_t>(Coding::grid)) in.fail("record", i, "has the unknown coding", coding);
    r.coding = static_cast<Coding>(coding);
    // A grid's tables take memory that its few bytes do not show, hence one at most.
    if (r.coding == Coding::grid && grids++ > 0) in.fail("record", i, "is a second grid record");
    r.raw_bytes = in.integer(8, "size");
    r.stored_bytes = in.integer(8, "size");
    r.offset = offset;
    if (r.stored_bytes > sealed - offset)
      in.fail("record", i, "of", r.stored_bytes, "bytes at", offset, "ends beyond the file");
    offset += r.stored_bytes;
    if (r.coding == Coding::raw && r.stored_bytes != r.raw_bytes)
      in.fail("record", i, "has", r.stored_bytes, "raw bytes for", r.raw_bytes);
    if (r.coding == Coding::mix) {
      if (r.raw_bytes > kMaxMixBytes) in.fail("record", i, "is mixed but of", r.raw_bytes, "bytes");
      mixed += r.raw_bytes, mixed_stored += r.stored_bytes;
    }
    index.records.push_back(std::move(r));
  }
  if (mixed > kFreeMixBytes + kMaxMixRatio * mixed_stored)
    in.fail("mixed records of", mixed_stored, "bytes unpack to", mixed);
  if (offset != sealed) in.fail("the records end at byte", offset, "but the checksum starts at", sealed);
  const uint64_t tensors = in.integer(4, "number of tensors");
  if (tensors > in.left() / 9) in.fail(tensors, "tensors do not fit the index");
  if (tensors > kMaxArtifactTensors) in.fail(tensors, "tensors;", kMaxArtifactTensors, "are allowed");
  uint64_t total = 0;
  std::set<std::string> names;
  std::vector<uint64_t> filled(index.records.size());
  for (uint64_t i = 0; i < tensors; ++i) {
    TensorInfo t = read_tensor(in, index.records.size());
    if (!names.insert(t.name).second) in.fail("tensor", t.name, "is listed twice");
    RecordInfo& r = index.records[t.record];
    if (t.bytes > max_decoded_bytes - total)
      in.fail("tensor", t.name, "of", t.bytes,
              "bytes: all together unpack to more than max_decoded_bytes =", max_decoded_bytes);
    total += t.bytes;
    if (t.bytes > r.raw_bytes - filled[t.record]) in.fail("tensor", t.name, "does not fit record", t.record);
    filled[t.record] += t.bytes;
    if (r.coding == Coding::grid && (t.dtype != DType::i8 || t.elements == 0))
      in.fail("tensor", t.name, "cannot be a grid");
    r.tensors.push_back(static_cast<uint32_t>(i));
    index.tensors.push_back(std::move(t));
  }
  for (size_t i = 0; i < index.records.size(); ++i) {
    if (filled[i] != index.records[i].raw_bytes) in.fail("record", i, "holds more than its tensors");
    if (index.records[i].tensors.empty()) in.fail("record", i, "holds no tensor");
  }
  if (in.left() != 0) in.fail(in.left(), "bytes too many");
  return index;
}

}  // namespace bg
