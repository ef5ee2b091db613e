#include "infer/evaluate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace bg {

double Score::bpb() const {
  return bytes > 0 ? nats / (std::numbers::ln2 * static_cast<double>(bytes)) : std::numeric_limits<double>::quiet_NaN();
}

Evaluation::Evaluation(Model& model, std::span<const int32_t> stream, int64_t window, int64_t stride, int64_t part,
                       int64_t parts)
    : model_(model), stream_(stream), window_(window), stride_(stride) {
  BG_CHECK(stream.size() >= 2, "scoring needs at least 2 ids (the first is context only), got", stream.size());
  BG_CHECK(window >= 1 && stride >= 1 && stride <= window, "scoring needs 1 <= stride <= window, got stride", stride,
           "window", window);
  BG_CHECK(window % model.config().patch_size == 0, "window", window,
           "is not a multiple of patch_size =", model.config().patch_size);
  const Vocab& vocab = model.config().vocab();
  for (size_t i = 0; i < stream.size(); ++i)
    BG_CHECK(stream[i] >= 0 && stream[i] < vocab.size, "stream position", i, "holds id", stream[i],
             "outside the vocabulary", describe(vocab));
  nll_.assign(stream.size() - 1, 0.0);
  BG_CHECK(part >= 0 && part < parts, "part", part, "of", parts);
  const int64_t windows = targets() <= window ? 1 : 1 + (targets() - window + stride - 1) / stride;
  const auto target_of = [&](int64_t w) { return w == 0 ? 0 : std::min(targets(), window + (w - 1) * stride); };
  const int64_t from = windows * part / parts, to = windows * (part + 1) / parts;
  next_ = from * stride;
  scored_ = first_ = target_of(from);
  last_ = target_of(to);
}

bool Evaluation::advance() {
  if (scored_ >= last_) return false;
  const int64_t length = std::min(window_, targets() - next_);  // inputs of the next window; shorter only at the end
  int64_t rows = 1;
  const int64_t batch_ids = model_.ctx().device == Device::cpu ? 16384 : 131072;  // what keeps each busy
  if (length == window_)
    rows = std::clamp<int64_t>((last_ - window_ - next_) / stride_ + 1, 1, std::max<int64_t>(1, batch_ids / window_));
  // A patch model takes whole patches: zeros pad the last one, after every target that counts.
  const int64_t K = model_.config().patch_size, padded = (length + K - 1) / K * K;
  ids_.assign(static_cast<size_t>(rows * padded), 0);
  targets_.assign(ids_.size(), -1);
  out_.resize(ids_.size());
  int64_t first = scored_;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t start = next_ + r * stride_;
    std::copy_n(&stream_[start], length, &ids_[r * padded]);
    for (int64_t t = first - start; t < length; ++t) targets_[r * padded + t] = stream_[start + t + 1];
    first = start + length;
  }
  model_.nll(ids_, targets_, rows, padded, out_);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t start = next_ + r * stride_;
    for (int64_t t = scored_ - start; t < length; ++t) {
      const double nats = out_[r * padded + t];
      if (!std::isfinite(nats)) throw NumericsError(words("target", start + t, "of the stream costs", nats, "nats"));
      nll_[start + t] = nats;
      score_.nats += nats;
    }
    score_.bytes += model_.config().vocab().count_bytes(&stream_[scored_ + 1], start + length - scored_);
    scored_ = start + length;
  }
  score_.targets = scored_ - first_;
  next_ += rows * stride_;
  return true;
}

}  // namespace bg
