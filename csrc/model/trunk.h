// A stack of blocks: in the order of their visits, with the skips between the first half of them and the second.
#pragma once

#include <functional>
#include <vector>

#include "model/layer.h"

namespace bg {

/// Called in the middle of a backward pass: the gradients of tensors first..last-1, in order of declaration, are final.
using GradientsReady = std::function<void(size_t first, size_t last)>;

/// One visit of a block: x <- mix[0] x + mix[1] x0, then for each layer x <- x + scale * layer(s * rms(x)). In a
/// parallel block every layer reads the s * rms(x) that the first one reads:
/// x <- x + sum over layers of scale * layer(u).
class Block {
 public:
  /// Keeps a reference to `stack`.
  Block(const StackSpec& stack, int64_t index);
  /// Another visit of the same block, with the same parameters and activations of its own; `visit` counts from 1.
  Block(const Block& first, int64_t visit);
  void declare(ParamTable& params);
  void reserve(Plan& plan, Dims dims);
  Flops flops(Dims dims) const;
  /// Returns the block's output (B*T,D), in memory of its own.
  Tensor forward(const Ctx& ctx, Tensor x, Tensor x0, const Grid& grid);
  /// dx: gradient of the output, replaced by that of the input; dx0 is added to.
  void backward(const Ctx& ctx, Tensor x0, const Grid& grid, Tensor dx, Tensor dx0);
  /// Memory (B*T,D) that this visit kept for its backward, free from then until the next forward.
  Tensor reusable_memory() const { return parts_.front().u; }

 private:
  struct Part {
    std::unique_ptr<Layer> layer;
    Tensor u, rstd;  // the normed stream it reads; of a parallel block the first part's alone
  };
  struct Weights {
    Param mix;
    std::vector<Param> scales;  // of each layer's output
  };
  const StackSpec& stack_;
  int64_t visit_ = 0;
  std::string prefix_;
  double norm_scale_;
  bool parallel_;
  std::shared_ptr<Weights> w_ = std::make_shared<Weights>();
  std::vector<Part> parts_;
  Tensor input_, stream_, out_, du_;
};

/// Blocks run in the order of `visits`, each visit with activations and caches of its own, norm scale and XSA being the
/// block's. Of n visits the first E = n/2 encode and push their outputs; the j-th after them adds skip_weights[j] times
/// the last one pushed. A stack whose blocks are visited more than once can also run with each visited once, in order,
/// on the first visits' memory; it then has the skips of a stack of `layers` visits.
class Trunk {
 public:
  explicit Trunk(StackSpec stack);
  Trunk(const Trunk&) = delete;
  Trunk& operator=(const Trunk&) = delete;
  const StackSpec& stack() const { return stack_; }
  void declare_skips(ParamTable& params);
  void declare_blocks(ParamTable& params);
  void reserve(Plan& plan, Dims dims);
  Flops flops(Dims dims, bool revisit) const;
  /// revisit: run all visits; else each block once.
  Tensor forward(const Ctx& ctx, Tensor x0, const Grid& grid, bool revisit);
  /// Of the last forward. dx: gradient of the output; afterwards that of x0, all its uses included. `ready` (may be
  /// empty) is called for each block's tensors after its last backward pass.
  void backward(const Ctx& ctx, Tensor x0, const Grid& grid, Tensor dx, const GradientsReady& ready);

 private:
  // A way through the blocks.
  struct Route {
    std::vector<size_t> visits;  // elements of visits_
    size_t encoders() const { return visits.size() / 2; }
  };
  const Route& route(bool revisit) const { return revisit ? all_ : once_; }
  const StackSpec stack_;
  Param skip_weights_;
  std::vector<std::unique_ptr<Block>> visits_;
  std::vector<size_t> block_of_;  // of each visit
  Route all_, once_;
  bool revisit_ = true;                             // of the last forward
  std::vector<std::pair<size_t, size_t>> tensors_;  // of each block, in order of declaration
  std::vector<Tensor> outs_, joined_, dskips_;      // outs: encoders' outputs; joined: decoders' inputs
  Tensor dx0_;
};

}  // namespace bg
