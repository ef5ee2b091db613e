// Decoding: rows that grow by one id a step, while what their earlier positions left behind stays in memory.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/memory.h"
#include "base/recording.h"
#include "model/model.h"

namespace bg {

/// A row's logits are those of Model::logits() on its ids, on the CPU to the bit (with the built-in GemmLibrary),
/// whatever the other rows hold; where seq_len is above rope_train_len, on its ids filled up to seq_len. Caches are
/// this decoder's own: the model may do other things between two calls, others may decode with it. Its weights must
/// stay as they are from the first call to the last.
class Decoder {
 public:
  /// Room for `rows` rows of at most `positions` each, rounded up. Keeps a reference to the model. Throws
  /// InvalidArgument for a model that has no such steps (patch models).
  Decoder(Model& model, int64_t rows, int64_t positions);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;
  int64_t rows() const { return rows_; }
  int64_t positions() const { return positions_; }

  /// An ordinary forward over ids (T), of which the first `length` become the past of `row`; the rest is padding.
  /// Returns logits (V) after position length - 1, on the device, valid until the next call.
  Tensor prompt(int64_t row, std::span<const int32_t> ids, int64_t length);
  /// One more id a row. Logits (rows,V) in host memory, valid until the next step; those of rows that rest mean
  /// nothing. Allocates nothing from the third step on; on CUDA replays a recording.
  Tensor step(std::span<const NextId> next);

 private:
  void enqueue_step(bool prepared);

  Model& model_;
  int64_t rows_, positions_;
  std::unique_ptr<Plan> plan_;
  Tensor numbers_;
  Staging in_, out_;
  Recording recording_;
  int64_t steps_done_ = 0;
};

}  // namespace bg
