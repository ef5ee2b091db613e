// What a step trains on: named streams of integers, how they lie in one staging area, and how a batch is handed over.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"

namespace bg {

/// One integer stream of a micro-batch, int32.
struct StreamSpec {
  const char* name;
  int64_t numel;
};

/// Where the streams of n equal micro-batches lie, one after the other: the offset table of a staging area.
class StreamLayout {
 public:
  StreamLayout() = default;
  explicit StreamLayout(std::vector<StreamSpec> specs) : specs_(std::move(specs)) {
    for (const StreamSpec& s : specs_) offsets_.push_back(offsets_.back() + s.numel);
  }
  std::span<const StreamSpec> specs() const { return specs_; }
  /// Elements of one micro-batch.
  int64_t numel() const { return offsets_.back(); }
  /// First element of stream `s` of micro-batch `micro`.
  int64_t offset(int64_t micro, size_t s) const { return micro * numel() + offsets_[s]; }
  bool operator==(const StreamLayout& other) const { return offsets_ == other.offsets_; }

 private:
  std::vector<StreamSpec> specs_;
  std::vector<int64_t> offsets_{0};
};

/// Host memory. The first two streams are ids and targets, (B,T) each; a target of -1 is not scored. Further ones are
/// those of Model::streams(B, T), in its order.
struct MicroBatch {
  int64_t B = 0, T = 0;
  std::vector<std::span<const int32_t>> streams;

  std::span<const int32_t> ids() const { return streams[0]; }
  std::span<const int32_t> targets() const { return streams[1]; }
  /// Throws InvalidArgument when the streams are not those of `layout`.
  void check(const StreamLayout& layout) const {
    BG_CHECK(streams.size() == layout.specs().size(), "a micro-batch has", streams.size(), "streams, expected",
             layout.specs().size());
    for (size_t s = 0; s < streams.size(); ++s)
      BG_CHECK(static_cast<int64_t>(streams[s].size()) == layout.specs()[s].numel, "stream", layout.specs()[s].name,
               "has", streams[s].size(), "elements, expected", layout.specs()[s].numel);
  }
};

/// Gives micro-batch number i of this rank; valid until the next call.
using FetchMicroBatch = std::function<MicroBatch(int64_t)>;

}  // namespace bg
