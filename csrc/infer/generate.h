// How a model writes: one byte after another, drawn from its own distribution, for several prompts at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.h"
#include "model/decoder.h"

namespace bg {

/// How bytes are drawn and where a row ends.
struct Sampling {
  double temperature = 1;  // 0 takes the likeliest byte
  double top_p = 1;        // in (0, 1]: of the smallest set of likeliest bytes that holds this probability; 1: of all
  uint64_t seed = 0;       // draws depend on (seed, row, how many bytes the row has) alone
  std::vector<std::string> stop;  // a row ends once it ends with one of these, which it keeps
  bool cache = true;              // keep keys and values of earlier positions; false recomputes the whole window
};

/// n bytes that follow each of several prompts, one byte of each row at a time. A vocabulary with bos starts with it;
/// special ids are never drawn. When the window (seq_len) is full, its oldest quarter is dropped. A row's bytes do not
/// depend on the other rows' prompts or number, but on its own number, which keys its draws: row 0 draws as a single
/// prompt does. They are the same with and without cache: on the CPU logits have equal bits (with the built-in
/// GemmLibrary), on CUDA other products round differently, and near a tie a draw may fall otherwise. Patch models
/// (patch_size > 1) always recompute the window: the bytes of a patch change what its earlier positions hold.
///
/// Memory with the cache: keys and values of every row, 2 * num_layers * num_kv_heads * head size elements per
/// position. The model may be used for other things between two calls of advance(), and others may generate with it;
/// its weights must not change.
class Generation {
 public:
  /// Throws InvalidArgument for n < 0, a temperature < 0, a top_p outside (0, 1], an empty stop, no prompt at all, or
  /// an empty prompt where the vocabulary has no bos to start from.
  Generation(Model& model, std::span<const std::string> prompts, int64_t n, Sampling sampling);
  /// One more byte of every row that has not ended: (row, byte) in order of rows, empty when all have. Throws
  /// NumericsError when a logit is not finite.
  std::span<const std::pair<int64_t, uint8_t>> advance();
  /// Ends a row early.
  void end(int64_t row) { rows_.at(static_cast<size_t>(row)).ended = true; }
  const std::string& text(int64_t row) const { return rows_.at(static_cast<size_t>(row)).text; }

 private:
  struct Row {
    std::vector<int32_t> ids;  // of the window
    std::string text;
    int64_t cached = 0;  // of ids whose keys and values are kept
    int64_t padded = 0;  // what their number was padded to
    bool ended = false;
    Random random;
  };
  int64_t padded_length(int64_t length) const;
  bool goes_on(const Row& row) const;
  std::vector<int32_t> padded_ids(const Row& row) const;
  void compute(std::vector<std::vector<double>>& logits);
  uint8_t draw(const Row& row, std::vector<double>& weights) const;

  Model& model_;
  Sampling sampling_;
  int64_t n_;
  std::unique_ptr<Decoder> decoder_;  // once the first row is cached
  std::vector<Row> rows_;
  std::vector<NextId> next_;
  std::vector<std::vector<double>> logits_;  // of each row, of the 256 bytes
  std::vector<std::pair<int64_t, uint8_t>> drawn_;
};

/// All of it: `emit` (may be empty) receives each byte as it comes and may return false to end that row.
std::vector<std::string> generate(Model& model, std::span<const std::string> prompts, int64_t n,
                                  const Sampling& sampling,
                                  const std::function<bool(int64_t row, uint8_t byte)>& emit = {});
/// One prompt.
std::string generate(Model& model, std::string_view prompt, int64_t n, double temperature, uint64_t seed,
                     const std::function<bool(uint8_t)>& emit = {});

}  // namespace bg
