// Which names and first values the two published programs give their tensors. Nothing else knows a family's names.
#pragma once

#include <cmath>
#include <string>

#include "base/config.h"
#include "tensor/params.h"

namespace bg {

struct FamilyNames {
  const char* attention;  // inside a block, "attn"
  const char* smear_gate;
  const char* bigram;  // prefix
};

inline FamilyNames names_of(const Config& c) {
  return c.family == "byte260" ? FamilyNames{"attn", "smear.gate", "bigram"}
                               : FamilyNames{"mixer", "smear_gate.gate", "bigram_hash"};
}

/// Uniform in +-1/sqrt(in): PyTorch's own start of a linear map.
inline Init linear_init(int64_t in) {
  return Init::uniform(1.0 / std::sqrt(static_cast<double>(in)));
}

/// A linear map (out, in) inside a block: orthogonal in byte260 when both sides are at least 64.
inline Init block_linear_init(const Config& c, int64_t out, int64_t in) {
  return c.family == "byte260" && out >= 64 && in >= 64 ? Init::orthogonal() : linear_init(in);
}

}  // namespace bg
