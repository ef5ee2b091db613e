// Where the positions of one stream stand: its sizes, angles of rotation, what each may see, and decoding.
#pragma once

#include <cstdint>

#include "tensor/tensor.h"

namespace bg {

/// Sizes of one forward pass of a stack. T counts its positions: bytes, or patches under patching. A step of decoding
/// takes one position of each of its rows: they stand side by side as the positions of one row, B = 1.
struct Dims {
  int64_t B = 0, T = 0;
  int64_t cached = 0;  // decoding: positions that each row's cache has room for
  int64_t rows() const { return B * T; }
};

/// What a forward pass has to do with decoding, where layers keep what later positions need of earlier ones.
struct Decoding {
  enum class Kind : uint8_t { none, fill, step } kind = Kind::none;
  // fill: an ordinary pass over one row; its first `length` positions become the past of cached row `row`.
  int64_t row = 0, length = 0;
  // fill: (1) i32 each: 0, and 0 once more as a limit; the first position of the chunk that `length` lies in.
  // step: (rows) i32 each: positions, -1 where a row rests; the position after the last that JEPA injects into.
  Tensor at, limit, chunk_at;
  Tensor first;           // step: (rows) i32, first visible position
  bool prepared = false;  // step: what follows from weights alone is there from the step before
};

/// The positions of one stream (B,T,·). Each stream of a model has a grid of its own.
struct Grid {
  int64_t B = 0, T = 0;
  Tensor rope;   // (T, rope_dims) cos and sin, see kernels/qk_norm_rope.h
  Tensor first;  // (B,T) i32, first visible position, not decreasing; empty: all earlier ones are visible
  // (B,T) i32, last visible position, with `first` any values in any order; empty: the position itself, the causal
  // case. A layer that reads other positions has no window then, and no steps of decoding.
  Tensor last;
  Decoding decoding;
};

/// Arithmetic of one pass: additions and multiplications, of the products and of attention; the rest is not counted.
struct Flops {
  double forward = 0, backward = 0;
  Flops& operator+=(const Flops& other) {
    forward += other.forward, backward += other.backward;
    return *this;
  }
};

/// Of a linear map with `weights` elements on `rows` rows; backward makes two products of that size.
inline Flops linear_flops(int64_t rows, int64_t weights) {
  const double once = 2.0 * static_cast<double>(rows) * static_cast<double>(weights);
  return {once, 2 * once};
}

}  // namespace bg
