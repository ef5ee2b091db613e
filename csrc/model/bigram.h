// Hashed pairs of neighbouring ids as features of width D.
#pragma once

#include "kernels/embedding.h"
#include "model/grid.h"
#include "tensor/params.h"
#include "tensor/plan.h"

#include "base/config.h"

namespace bg {

/// p = window_mean(embed[hash(ids)]) projᵀ, one row per position of the blocks. Tensors: embed (N,W), proj (D,W).
class Bigram {
 public:
  explicit Bigram(const Config& config) : config_(config) {}
  void declare(ParamTable& params);
  void reserve(Plan& plan, int64_t B, int64_t T);
  Flops flops(int64_t B, int64_t T) const;
  /// ids (B,T) i32. Returns p (B*T/patch_size, D), in scratch memory.
  Tensor forward(const Ctx& ctx, Tensor ids);
  /// p again, in backward: making it costs less than keeping it.
  Tensor project(const Ctx& ctx);
  void backward(const Ctx& ctx, Tensor dp);

 private:
  const Config& config_;
  Param embed_, proj_;
  Tensor buckets_, rows_, means_, out_, drows_, dmeans_;
};

}  // namespace bg
