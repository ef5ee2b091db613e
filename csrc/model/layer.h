// What a layer of a block is: it takes the normed residual stream u (B,T,D) and adds to the stream, scaled per channel.
#pragma once

#include <memory>
#include <string>

#include "base/config.h"
#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// Sizes of one forward pass inside the blocks. T counts positions there: bytes, or patches under patching. A step of
/// decoding takes one position of each of its rows: they stand side by side as the positions of one row, B = 1.
struct Dims {
  int64_t B = 0, T = 0;
  int64_t cached = 0;  // decoding: positions that each row's cache has room for
  int64_t rows() const { return B * T; }
};

/// Where a layer stands.
struct LayerPlace {
  int64_t index = 0;   // of its block, from 0
  int64_t window = 0;  // ids that attention may look back, itself included; 0: all
  bool xsa = false;    // remove each value's own direction
  std::string prefix;  // of its block's parameter names, "blocks.3."
};

/// What a forward pass has to do with decoding, where layers keep what later positions need of earlier ones.
struct Decoding {
  enum class Kind : uint8_t { none, fill, step } kind = Kind::none;
  // fill: an ordinary pass over one row; its first `length` positions become the past of cached row `row`.
  int64_t row = 0, length = 0;
  // fill: (1) i32 each: 0, and 0 once more as a limit; the first position of the chunk that `length` lies in.
  // step: (rows) i32 each: positions, -1 where a row rests; behind the last position that JEPA injects into.
  Tensor at, limit, chunk_at;
  Tensor first;           // step: (rows) i32, first visible position
  bool prepared = false;  // step: what follows from weights alone is there from the step before
};

/// What attention knows about positions.
struct Positions {
  Tensor rope;       // (T, rope_dims) cos and sin, see kernels/qk_norm_rope.h
  Tensor doc_start;  // (B,T) i32, first visible position; empty when unlimited
  Decoding decoding;
};

class Layer {
 public:
  virtual ~Layer() = default;
  /// Name of the learned scale of this layer's output, inside its block.
  virtual std::string scale_name() const = 0;
  virtual void declare(ParamTable& params) = 0;
  virtual void reserve(Plan& plan, Dims dims) = 0;
  /// y = x + scale * layer(u), all (B,T,D), scale (D); y may be x. A layer ends in a linear map, which takes scale and
  /// sum into its product: see ScaledLinear. A layer that reads other positions keeps, where positions.decoding says
  /// so, what later ones will need, and reads that in a step; the others see a step as a row of rows() positions.
  virtual void forward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor x,
                       Tensor y) = 0;
  /// dy: gradient of y, and so of x, left as it is. du (B,T,D) is overwritten; parameter gradients, scale's too, add
  /// up.
  virtual void backward(const Ctx& ctx, Tensor u, const Positions& positions, const Param& scale, Tensor dy,
                        Tensor du) = 0;
};

/// Makes the layer that `name` stands for in option `block`; throws InvalidArgument listing the known ones.
std::unique_ptr<Layer> make_layer(const std::string& name, const Config& config, const LayerPlace& place);

}  // namespace bg
