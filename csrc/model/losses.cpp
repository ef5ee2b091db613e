#include "model/losses.h"

#include <cmath>

#include "base/check.h"

namespace bg {

Losses read_losses(const Config& config, std::span<const double> parts, int64_t scored, double scheduled_weight) {
  BG_CHECK(static_cast<int64_t>(parts.size()) == kNumLosses, parts.size(), "loss parts, expected", kNumLosses);
  Losses out;
  double scheduled = 0;
  for (int64_t i = 0; i < kNumLosses; ++i) {
    const LossRow& row = kLosses[i];
    const double value = row.part == LossPart::sum ? parts[i] / static_cast<double>(scored) : parts[i];
    if (!std::isfinite(value)) throw NumericsError(words("loss", row.name, "is", value));
    out[i] = value;
    (row.scheduled ? scheduled : out.total) += row.weight(config) * value;
  }
  out.total += scheduled_weight * scheduled;
  return out;
}

}  // namespace bg
