// How trained weights become small integers: one step size per row, one integer per weight.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/threads.h"
#include "tensor/params.h"  // Codec: which treatment a tensor asks for in its declaration

namespace bg {

/// int6_mixed   matrices of more than 65,536 elements: s = f16(max(max|w| / 31, 1/31)),
///              q = clamp(round(w / s), -32, 31);
///              other tensors of more than 65,536 elements: c = the 99.99984 % quantile of |w|, s = max(c / 127,
///              1/127), q = round(clamp(w, -c, c) / s), divided by s in float32, s stored as float16; the rest float16.
/// int6_byte256 matrices of more than 65,536 elements: as the second kind with 31 for 127; everything else float16.
/// A matrix is what its declaration calls one (Codec::matrix). All per row (the first dimension; a vector is one row);
/// round goes to even; quantiles interpolate linearly.
enum class Scheme : uint8_t { int6_mixed, int6_byte256 };

/// Throws InvalidArgument for an unknown name.
Scheme scheme_of(std::string_view name);

struct QuantisedTensor {
  std::vector<int8_t> q;        // one per element, or empty when the tensor stays float
  std::vector<uint16_t> scale;  // float16 bits, one per row
  std::vector<uint16_t> half;   // float16 bits, one per element, of a tensor that stays float
  bool is_quantised = false;
};

/// `name` is for messages; dims has any rank, their product is weights.size(). Throws NumericsError naming the tensor
/// and the element when a weight is NaN or infinite, or beyond what float16 holds (65,504), InvalidArgument for
/// Codec::left_out.
QuantisedTensor quantise(ThreadPool& pool, const std::string& name, std::span<const float> weights,
                         std::span<const int64_t> dims, Codec codec, Scheme scheme);

/// out[r, c] = q[r, c] * scale[r], in float32. q.size() is a multiple of scale.size(); out has q's size.
void dequantise(ThreadPool& pool, std::span<const int8_t> q, std::span<const uint16_t> scale, std::span<float> out);

}  // namespace bg
