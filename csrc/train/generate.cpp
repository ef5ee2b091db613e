#include "train/generate.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "data/vocab.h"
#include "tensor/transfer.h"

namespace bg {

std::string generate(Model& model, std::string_view prompt, int64_t n, double temperature, uint64_t seed,
                     const std::function<bool(uint8_t)>& emit) {
  BG_CHECK(n >= 0, "generate needs n >= 0, got", n);
  BG_CHECK(std::isfinite(temperature) && temperature >= 0, "generate needs a temperature >= 0, got", temperature);
  const Config& c = model.config();
  const Vocab& vocab = vocab_of(c.family);
  std::vector<int32_t> ids;
  if (vocab.bos >= 0) ids.push_back(vocab.bos);
  for (char byte : prompt) ids.push_back(vocab.id_of(static_cast<uint8_t>(byte)));
  BG_CHECK(!ids.empty(), "generate needs a prompt: family", c.family, "has no bos to start from");

  const Random random(seed, "generate");
  std::string text;
  std::vector<double> weights(256);
  for (int64_t i = 0; i < n; ++i) {
    if (static_cast<int64_t>(ids.size()) > c.seq_len)
      ids.erase(ids.begin(), ids.end() - std::max<int64_t>(1, c.seq_len * 3 / 4));
    // Lengths in steps of 64, so that plans are reused, filled up behind the last id, which causality hides. Inputs
    // longer than rope_train_len turn by their length, so there all have the longest.
    const int64_t length = static_cast<int64_t>(ids.size()), step = 64 * c.patch_size;
    const int64_t padded =
        c.seq_len > c.rope_train_len ? c.seq_len : std::min(c.seq_len, (length + step - 1) / step * step);
    std::vector<int32_t> in(ids);
    in.resize(static_cast<size_t>(padded), vocab.id_of(0));
    const Tensor logits = model.logits(in, 1, padded);
    const int64_t row = (length - 1) * vocab.size + vocab.byte_offset;
    weights = download(model.ctx(), logits.reshape({logits.numel()}).slice(0, row, row + 256));
    for (double w : weights)
      if (!std::isfinite(w)) throw NumericsError(words("a logit of byte", i, "to generate is", w));
    int best = static_cast<int>(std::max_element(weights.begin(), weights.end()) - weights.begin());
    if (temperature > 0) {
      const double largest = weights[best];
      double sum = 0;
      for (double& w : weights) sum += w = std::exp((w - largest) / temperature);
      double left = random.uniform(static_cast<uint64_t>(i)) * sum;
      for (best = 0; best < 255 && (left -= weights[best]) > 0;) ++best;
    }
    text.push_back(static_cast<char>(best));
    ids.push_back(vocab.id_of(static_cast<uint8_t>(best)));
    if (emit && !emit(static_cast<uint8_t>(best))) break;
  }
  return text;
}

}  // namespace bg
