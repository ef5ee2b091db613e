// First values of linear maps.
#pragma once

#include <cmath>

#include "model/spec.h"
#include "tensor/params.h"

namespace bg {

/// Uniform in +-1/sqrt(in): PyTorch's own start of a linear map.
inline Init linear_init(int64_t in) {
  return Init::uniform(1.0 / std::sqrt(static_cast<double>(in)));
}

/// A linear map (out, in) inside a block.
inline Init block_linear_init(const StackSpec& stack, int64_t out, int64_t in) {
  return stack.orthogonal && out >= 64 && in >= 64 ? Init::orthogonal() : linear_init(in);
}

}  // namespace bg
