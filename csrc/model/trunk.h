// The stack of blocks: encoder half, decoder half, and the skips between them.
#pragma once

#include <functional>
#include <vector>

#include "model/layer.h"

namespace bg {

/// Called in the middle of a backward pass: the gradients of tensors first..last-1, in order of declaration, are final.
using GradientsReady = std::function<void(size_t first, size_t last)>;

/// One block: x <- mix[0] x + mix[1] x0, then for each layer x <- x + scale * layer(s * rms(x)).
class Block {
 public:
  Block(const Config& config, int64_t index);
  void declare(ParamTable& params);
  void reserve(Plan& plan, Dims dims);
  /// Returns the block's output (B,T,D), in memory of its own.
  Tensor forward(const Ctx& ctx, Tensor x, Tensor x0, const Positions& positions);
  /// dx: gradient of the output, replaced by that of the input; dx0 is added to.
  void backward(const Ctx& ctx, Tensor x0, const Positions& positions, Tensor dx, Tensor dx0);
  /// Memory (B*T,D) that this block kept for its backward, free from then until the next forward.
  Tensor spent() const { return parts_.front().u; }

 private:
  struct Part {
    std::unique_ptr<Layer> layer;
    Param scale;
    Tensor u, rstd;  // the normed stream it reads
  };
  const Config& config_;
  std::string prefix_;
  double norm_scale_;
  Param mix_;
  std::vector<Part> parts_;
  Tensor input_, stream_, out_, du_;
};

/// Blocks 0..E-1 encode and push their outputs (E = L/2); decoder j adds skip_weights[j] * the last one pushed.
class Trunk {
 public:
  explicit Trunk(const Config& config);
  void declare_skips(ParamTable& params);
  void declare_blocks(ParamTable& params);
  void reserve(Plan& plan, Dims dims);
  Tensor forward(const Ctx& ctx, Tensor x0, const Positions& positions);
  /// dx: gradient of the output; afterwards that of x0, all its uses included. `ready` (may be empty) is told of each
  /// block's tensors behind its backward.
  void backward(const Ctx& ctx, Tensor x0, const Positions& positions, Tensor dx, const GradientsReady& ready);

 private:
  const Config& config_;
  Param skip_weights_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::pair<size_t, size_t>> tensors_;  // of each block, in order of declaration
  std::vector<Tensor> outs_, joined_, dskips_;      // outs: encoders' outputs; joined: decoders' inputs
  Tensor dx0_;
};

}  // namespace bg
