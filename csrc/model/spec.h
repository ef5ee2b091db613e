// What a stack of blocks is made of. A model may hold several, of different widths; layers know their stack alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation.h"

namespace bg {

/// Dimensions have the letters of STYLE: width D, query heads H, key/value heads G, head size d, MLP width F.
struct StackSpec {
  std::string prefix = "blocks.";       // of parameter names; those of block 3 begin with "blocks.3."
  std::string attention_name = "attn";  // of attention's tensors inside a block
  std::string skip_name;                // of the tensor of skip weights; empty: the stack has no skips
  int64_t layers = 0;                   // blocks
  int64_t D = 0, H = 0, G = 0, d = 0, F = 0;
  std::vector<std::vector<std::string>> pattern;  // layers of a block, in order; repeated over the blocks
  std::vector<int64_t> windows;                   // ids that attention may look back, itself included; repeated; 0: all
  std::vector<int64_t> visits;                    // the blocks in the order they run; empty: each once
  int64_t xsa_last = 0;                           // the last n blocks remove each value's own direction
  int64_t parallel_last = 0;                      // all layers of each of the last n blocks read the same normed stream
  int64_t rope_dims = 0;                          // leading dims of each head that rotate
  bool ln_scale = false;                          // normed inputs of block l are scaled by 1/sqrt(l + 1)
  double norm_eps = 0, q_gain_init = 1;
  bool orthogonal = false;  // linear maps start orthogonal when both sides are at least 64
  Activation activation{Activation::Kind::silu, 0};

  const std::vector<std::string>& layers_of(int64_t block) const {
    return pattern[static_cast<size_t>(block) % pattern.size()];
  }
  int64_t window_of(int64_t block) const {
    return windows.empty() ? 0 : windows[static_cast<size_t>(block) % windows.size()];
  }
  bool xsa(int64_t block) const { return block >= layers - xsa_last; }
  bool parallel(int64_t block) const { return block >= layers - parallel_last; }
};

}  // namespace bg
