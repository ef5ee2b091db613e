// What a layer of a block is: it takes the normed residual stream u (B,T,D) and adds to the stream, scaled per channel.
#pragma once

#include <memory>
#include <string>

#include "kernels/write.h"
#include "model/grid.h"
#include "model/spec.h"
#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// Which block a layer belongs to.
struct LayerPlace {
  int64_t index = 0;   // of the block, from 0
  std::string prefix;  // of its parameter names, "blocks.3."
};

class Layer {
 public:
  virtual ~Layer() = default;
  /// The same layer for another visit of its block: it shares the parameters, and has activations and caches of its
  /// own. For a layer that is not reserved yet.
  virtual std::unique_ptr<Layer> again() const = 0;
  /// Name of the learned scale of this layer's output, inside its block.
  virtual std::string scale_name() const = 0;
  /// Once, for all visits.
  virtual void declare(ParamTable& params) = 0;
  virtual void reserve(Plan& plan, Dims dims) = 0;
  /// Arithmetic over dims.rows() positions; in a step of decoding each reads dims.cached positions.
  virtual Flops flops(Dims dims) const = 0;
  /// y = x + scale * layer(u), all (B,T,D), scale (D); y may be x. A layer ends in a linear map, which takes scale and
  /// sum into its product: see ScaledLinear. A layer that reads other positions keeps, where grid.decoding says so,
  /// what later ones will need, and reads that in a step; the others see a step as a row of rows() positions.
  virtual void forward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor x, Tensor y) = 0;
  /// dy: gradient of y, and so of x, left as it is. du (B,T,D) is overwritten or added to; parameter gradients, scale's
  /// too, add up.
  virtual void backward(const Ctx& ctx, Tensor u, const Grid& grid, const Param& scale, Tensor dy, Tensor du,
                        Write write) = 0;
};

/// Makes the layer that `name` stands for in option `block`; throws InvalidArgument listing the known ones. Keeps a
/// reference to `stack`.
std::unique_ptr<Layer> make_layer(const std::string& name, const StackSpec& stack, const LayerPlace& place);

}  // namespace bg
