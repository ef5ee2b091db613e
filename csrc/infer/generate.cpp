#include "infer/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/transfer.h"

namespace bg {

Generation::Generation(Model& model, std::span<const std::string> prompts, int64_t n, Sampling sampling)
    : model_(model), sampling_(std::move(sampling)), n_(n) {
  const Config& c = model.config();
  const Sampling& s = sampling_;
  BG_CHECK(n >= 0, "generate needs n >= 0, got", n);
  BG_CHECK(std::isfinite(s.temperature) && s.temperature >= 0, "generate needs a temperature >= 0, got", s.temperature);
  BG_CHECK(s.top_p > 0 && s.top_p <= 1, "generate needs a top_p above 0 and at most 1, got", s.top_p);
  for (const std::string& stop : s.stop) BG_CHECK(!stop.empty(), "generate got an empty stop");
  BG_CHECK(!prompts.empty(), "generate needs at least one prompt");
  const Vocab& vocab = c.vocab();
  for (size_t i = 0; i < prompts.size(); ++i) {
    Row row{{}, {}, 0, 0, n == 0, Random(s.seed, "generate", static_cast<uint32_t>(i))};
    if (vocab.bos >= 0) row.ids.push_back(vocab.bos);
    for (char byte : prompts[i]) row.ids.push_back(vocab.id_of(static_cast<uint8_t>(byte)));
    BG_CHECK(!row.ids.empty(), "generate needs a prompt: vocabulary", vocab.name, "has no bos to start from");
    rows_.push_back(std::move(row));
  }
  if (c.patch_size > 1) sampling_.cache = false;
  next_.resize(rows_.size());
  logits_.resize(rows_.size());
}

// Lengths in steps of 64, so that plans are reused; the padding comes after the last id, where causality hides it. The
// rotation of inputs longer than rope_train_len depends on their length, so those are all padded to the longest.
int64_t Generation::padded_length(int64_t length) const {
  const Config& c = model_.config();
  const int64_t step = 64 * c.patch_size;
  return c.seq_len > c.rope_train_len ? c.seq_len : std::min(c.seq_len, (length + step - 1) / step * step);
}

// Whether the row's last id can be added to what is cached of those before. A step reads the two ids before it. And a
// pass injects JEPA's predictions into whole chunks only, so one that ended inside a chunk says nothing about longer
// ones.
bool Generation::goes_on(const Row& row) const {
  const auto length = static_cast<int64_t>(row.ids.size()), chunk = model_.config().jepa_chunk_size;
  return row.cached >= 2 && row.cached == length - 1 &&
         (chunk == 0 || row.padded == padded_length(length) || row.padded % chunk == 0);
}

std::vector<int32_t> Generation::padded_ids(const Row& row) const {
  std::vector<int32_t> ids(row.ids);
  ids.resize(static_cast<size_t>(padded_length(static_cast<int64_t>(ids.size()))), model_.config().vocab().id_of(0));
  return ids;
}

// The logits of the next byte of every row that has not ended.
void Generation::compute(std::vector<std::vector<double>>& logits) {
  const Config& c = model_.config();
  const Vocab& vocab = c.vocab();
  if (sampling_.cache && !decoder_) {
    int64_t longest = 0;
    for (const Row& row : rows_) {
      const auto left = n_ - static_cast<int64_t>(row.text.size());
      if (!row.ended) longest = std::max(longest, std::min(c.seq_len, static_cast<int64_t>(row.ids.size()) + left));
    }
    decoder_ = std::make_unique<Decoder>(model_, static_cast<int64_t>(rows_.size()), longest);
  }
  bool step = false;
  for (size_t r = 0; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    next_[r] = {};
    if (row.ended) continue;
    const auto length = static_cast<int64_t>(row.ids.size()), padded = padded_length(length);
    if (sampling_.cache && goes_on(row)) {
      const int32_t* last = &row.ids.back();
      next_[r].position = static_cast<int32_t>(length - 1);
      std::copy(last - 2, last + 1, next_[r].ids);
      if (c.doc_mask)  // no bos is ever drawn, but a prompt's own may still be there
        for (int32_t t = 0; t < length; ++t)
          if (row.ids[static_cast<size_t>(t)] == vocab.bos) next_[r].first = t;
      if (c.jepa_chunk_size > 0)
        next_[r].inject_end = static_cast<int32_t>(padded / c.jepa_chunk_size * c.jepa_chunk_size);
      step = true;
    } else {
      const std::vector<int32_t> ids = padded_ids(row);
      Tensor out;  // (V)
      if (sampling_.cache) {
        out = decoder_->prompt(static_cast<int64_t>(r), ids, length);
      } else {
        const Tensor all = model_.logits(ids, 1, padded);
        out = all.reshape({padded, vocab.size}).slice(0, length - 1, length).reshape({vocab.size});
      }
      logits[r] = download(model_.ctx(), out.slice(0, vocab.byte_offset, vocab.byte_offset + 256));
    }
    row.cached = length;
    row.padded = padded;
  }
  if (!step) return;
  const Tensor out = decoder_->step(next_);
  for (size_t r = 0; r < rows_.size(); ++r) {
    if (next_[r].position < 0) continue;
    const int64_t first = static_cast<int64_t>(r) * vocab.size + vocab.byte_offset;
    BG_FLOATS(out.dtype(), T, logits[r].assign(out.ptr<T>() + first, out.ptr<T>() + first + 256));
  }
}

// weights: logits, overwritten.
uint8_t Generation::draw(const Row& row, std::vector<double>& weights) const {
  int best = static_cast<int>(std::max_element(weights.begin(), weights.end()) - weights.begin());
  if (sampling_.temperature == 0) return static_cast<uint8_t>(best);
  const double largest = weights[best];
  double sum = 0;
  for (double& w : weights) sum += w = std::exp((w - largest) / sampling_.temperature);
  if (sampling_.top_p < 1) {
    std::vector<int> order(256);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
    double kept = 0;
    size_t count = 0;
    while (count < order.size() && (count == 0 || kept < sampling_.top_p * sum)) kept += weights[order[count++]];
    for (size_t i = count; i < order.size(); ++i) weights[order[i]] = 0;
    sum = kept;
  }
  int last = 255;  // that can be drawn at all
  while (weights[last] == 0) --last;
  double left = row.random.uniform(row.text.size()) * sum;
  for (best = 0; best < last && (left -= weights[best]) > 0;) ++best;
  return static_cast<uint8_t>(best);
}

std::span<const std::pair<int64_t, uint8_t>> Generation::advance() {
  const Config& c = model_.config();
  const Vocab& vocab = c.vocab();
  drawn_.clear();
  if (std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.ended; })) return drawn_;
  for (Row& row : rows_)
    if (!row.ended && static_cast<int64_t>(row.ids.size()) > c.seq_len) {
      row.ids.erase(row.ids.begin(), row.ids.end() - std::max<int64_t>(1, c.seq_len * 3 / 4));
      row.cached = 0;
    }
  compute(logits_);
  for (size_t r = 0; r < rows_.size(); ++r) {
    Row& row = rows_[r];
    if (row.ended) continue;
    for (double logit : logits_[r])
      if (!std::isfinite(logit))
        throw NumericsError(words("a logit of byte", row.text.size(), "to generate is", logit));
    const uint8_t byte = draw(row, logits_[r]);
    row.text.push_back(static_cast<char>(byte));
    row.ids.push_back(vocab.id_of(byte));
    drawn_.emplace_back(static_cast<int64_t>(r), byte);
    row.ended = static_cast<int64_t>(row.text.size()) == n_ ||
                std::any_of(sampling_.stop.begin(), sampling_.stop.end(),
                            [&](const std::string& stop) { return row.text.ends_with(stop); });
  }
  return drawn_;
}

std::vector<std::string> generate(Model& model, std::span<const std::string> prompts, int64_t n,
                                  const Sampling& sampling, const std::function<bool(int64_t, uint8_t)>& emit) {
  Generation run(model, prompts, n, sampling);
  for (auto drawn = run.advance(); !drawn.empty(); drawn = run.advance())
    for (const auto& [row, byte] : drawn)
      if (emit && !emit(row, byte)) run.end(row);
  std::vector<std::string> texts;
  for (size_t r = 0; r < prompts.size(); ++r) texts.push_back(run.text(static_cast<int64_t>(r)));
  return texts;
}

std::string generate(Model& model, std::string_view prompt, int64_t n, double temperature, uint64_t seed,
                     const std::function<bool(uint8_t)>& emit) {
  const std::vector<std::string> prompts{std::string(prompt)};
  Sampling sampling;
  sampling.temperature = temperature;
  sampling.seed = seed;
  std::function<bool(int64_t, uint8_t)> each;
  if (emit) each = [&](int64_t, uint8_t byte) { return emit(byte); };
  return generate(model, prompts, n, sampling, each)[0];
}

}  // namespace bg
