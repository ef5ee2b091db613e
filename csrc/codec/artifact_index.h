// What the front of an artifact says: which records follow and which tensors they hold. Parsing trusts nothing.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "codec/artifact.h"
#include "codec/mix_coder.h"

namespace bg {

constexpr char kArtifactMagic[9] = "BYTEGOLF";
constexpr uint32_t kArtifactVersion = 1;
constexpr size_t kArtifactHeaderBytes = 40;
constexpr size_t kArtifactChecksumBytes = 32;
constexpr uint64_t kMaxMixRatio = 256;  // of what mix records unpack to and store, beyond the first few megabytes
constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxArtifactTensors = 1 << 16;
constexpr std::string_view kConfigControls = "\t\n\r";  // what TOML allows

struct RecordInfo {
  Coding coding = Coding::raw;
  uint64_t raw_bytes = 0, stored_bytes = 0;
  uint64_t offset = 0;            // in the file; follows from the order
  std::vector<uint32_t> tensors;  // follows from the tensors, in file order
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> dims;
  uint32_t record = 0;
  uint64_t elements = 1, bytes = 0;  // follow from dims and dtype
};

struct ArtifactIndex {
  std::string config;
  std::vector<RecordInfo> records;
  std::vector<TensorInfo> tensors;
};

/// Header and index frame, up to where the records start. total_bytes becomes the header's file size.
Bytes write_index(const ArtifactIndex& index);
/// Checks magic, version, sizes, checksum and every entry of the index, and that all tensors together do not exceed
/// max_decoded_bytes; fills what follows from others.
ArtifactIndex read_index(std::span<const uint8_t> file, const std::string& path, uint64_t max_decoded_bytes);

/// Little-endian integers of `bytes` bytes at p.
uint64_t load_le(const uint8_t* p, int bytes);
void append_le(Bytes& out, uint64_t value, int bytes);

bool is_utf8(std::string_view text);
/// Whether UTF-8 text holds a sign that moves a terminal's cursor or reverses its text: C0, C1 and DEL (of which
/// `but` names those allowed), line separators, marks of direction. Neither names nor options have a use for one.
bool has_control(std::string_view utf8, std::string_view but = "");
/// The parts of a record for the mixing coder; "similar" is the last earlier tensor of the record with the same dtype
/// and size whose name differs in nothing but numbers (blocks.3.attn_scale after blocks.2.attn_scale).
std::vector<MixPart> mix_parts(const ArtifactIndex& index, const RecordInfo& record);

}  // namespace bg
