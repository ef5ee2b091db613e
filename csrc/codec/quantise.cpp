#include "codec/quantise.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/half.h"

namespace bg {
namespace {

constexpr int64_t kLargestFloatTensor = 65536;  // elements; more than this is quantised
constexpr float kQuantile = 0.9999984f;

void check_finite(const std::string& name, std::span<const float> w) {
  for (size_t i = 0; i < w.size(); ++i) {
    if (!std::isfinite(w[i])) throw NumericsError(words("tensor", name, "holds", w[i], "at element", i));
  }
}

uint16_t checked_half(const std::string& name, float value, size_t at) {
  const uint16_t h = half_from_float(value);
  if ((h & 0x7c00) == 0x7c00) {
    throw NumericsError(words("tensor", name, "needs", value, "at element", at, "but float16 ends at 65504"));
  }
  return h;
}

/// The quantile of |row|, linearly interpolated between the two order statistics around it.
float quantile_of_magnitude(std::span<const float> row, std::vector<float>& scratch) {
  scratch.resize(row.size());
  std::transform(row.begin(), row.end(), scratch.begin(), [](float v) { return std::fabs(v); });
  const float position = kQuantile * static_cast<float>(row.size() - 1);
  const size_t below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, row.size() - 1);
  const float weight = position - static_cast<float>(below);
  const auto split = scratch.begin() + static_cast<ptrdiff_t>(above);
  std::nth_element(scratch.begin(), split, scratch.end());
  const float high = *split;
  const float low = below == above ? high : *std::max_element(scratch.begin(), split);
  // From the nearer end, so that weight 0 and weight 1 give the ends exactly.
  return weight < 0.5f ? low + weight * (high - low) : high - (high - low) * (1.0f - weight);
}

/// Step from the largest magnitude; the step as stored divides.
void quantise_row_by_max(std::span<const float> w, float levels, int8_t* q, float& step) {
  float largest = 0;
  for (float v : w) largest = std::max(largest, std::fabs(v));
  step = std::max(largest / levels, 1.0f / levels);
  const float divisor = float_from_half(half_from_float(step));
  for (size_t i = 0; i < w.size(); ++i) {
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(w[i] / divisor), -levels - 1, levels));
  }
}

/// Step from a high quantile, beyond which weights are clipped; the step before its rounding to float16 divides.
void quantise_row_by_quantile(std::span<const float> w, float levels, int8_t* q, float& step,
                              std::vector<float>& scratch) {
  const float clip = quantile_of_magnitude(w, scratch);
  step = std::max(clip / levels, 1.0f / levels);
  for (size_t i = 0; i < w.size(); ++i) {
    const float clipped = std::clamp(w[i], -clip, clip);
    q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(clipped / step), -levels, levels));
  }
}

}  // namespace

Scheme scheme_of(std::string_view name) {
  if (name == "int6_mixed") return Scheme::int6_mixed;
  BG_CHECK(name == "int6_byte256", "unknown scheme", name, "(there are int6_mixed and int6_byte256)");
  return Scheme::int6_byte256;
}

QuantisedTensor quantise(ThreadPool& pool, const std::string& name, std::span<const float> weights,
                         std::span<const int64_t> dims, Codec codec, Scheme scheme) {
  int64_t size = 1;
  for (int64_t d : dims) size *= d;
  BG_CHECK(size == static_cast<int64_t>(weights.size()), "tensor", name, "has", weights.size(), "elements, its shape",
           size);
  BG_CHECK(codec != Codec::left_out, "tensor", name, "is declared as left out of artifacts");
  check_finite(name, weights);

  QuantisedTensor out;
  const bool byte256 = scheme == Scheme::int6_byte256;
  out.is_quantised = size > kLargestFloatTensor && (codec == Codec::matrix || !byte256);
  if (!out.is_quantised) {
    out.half.resize(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) out.half[i] = checked_half(name, weights[i], i);
    return out;
  }
  const int64_t rows = dims.size() < 2 ? 1 : dims[0];
  const size_t width = static_cast<size_t>(size / rows);
  out.q.resize(weights.size());
  out.scale.resize(static_cast<size_t>(rows));
  pool.parallel_for(rows, [&](int64_t r) {
    const size_t at = static_cast<size_t>(r) * width;
    const std::span<const float> row = weights.subspan(at, width);
    std::vector<float> scratch;
    float step = 0;
    if (byte256)
      quantise_row_by_quantile(row, 31, &out.q[at], step, scratch);
    else if (codec == Codec::matrix)
      quantise_row_by_max(row, 31, &out.q[at], step);
    else
      quantise_row_by_quantile(row, 127, &out.q[at], step, scratch);
    out.scale[static_cast<size_t>(r)] = checked_half(name, step, at);
  });
  return out;
}

void dequantise(ThreadPool& pool, std::span<const int8_t> q, std::span<const uint16_t> scale, std::span<float> out) {
  BG_CHECK(out.size() == q.size(), "dequantise: output of", out.size(), "for", q.size());
  if (q.empty()) return;
  BG_CHECK(!scale.empty() && q.size() % scale.size() == 0, "dequantise:", q.size(), "integers in", scale.size(),
           "rows");
  const size_t width = q.size() / scale.size();
  pool.parallel_for(static_cast<int64_t>(scale.size()), [&](int64_t r) {
    const float step = float_from_half(scale[static_cast<size_t>(r)]);
    const size_t at = static_cast<size_t>(r) * width;
    for (size_t i = at; i < at + width; ++i) out[i] = static_cast<float>(q[i]) * step;
  });
}

}  // namespace bg
