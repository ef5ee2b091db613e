// What the learned tensors are: each declared once, and that one row decides its allocation, start, optimiser,
// averaging and quantisation, and names it in checkpoints and artifacts.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ctx.h"
#include "tensor/buffer.h"
#include "tensor/groups.h"
#include "tensor/init.h"
#include "tensor/tensor.h"

namespace bg {

/// How the artifact stores a tensor: in the few bits that its scheme gives matrices, by the scheme's rule for all other
/// tensors, or not at all, since only training uses it (codec/quantise.h).
#define BG_CODECS(ROW) ROW(matrix) ROW(other) ROW(left_out)
enum class Codec : uint8_t {
#define BG_ROW(name) name,
  BG_CODECS(BG_ROW)
#undef BG_ROW
};
const char* name_of(Codec codec);
/// Throws InvalidArgument for a name that is none.
Codec codec_of(std::string_view name);

/// Whether EMA and SWA average it; what inference does not use need not be.
enum class Averaging : uint8_t { on, off };

/// A layer's handle to a tensor it declared; filled in when the table is allocated. Matrix products read `operand`,
/// everything else `value`: in a bf16 context values and gradients are float32 and operands a bf16 copy, elsewhere
/// operand and value are one.
struct Param {
  Tensor value, operand, grad;
};

struct ParamSpec {
  std::string name;
  Shape shape;
  Init init;
  Group group;
  Codec codec;
  Averaging averaging;
  int64_t offset = 0;  // elements from the start of every parameter-shaped arena
  Param* handle = nullptr;
};

/// All parameters of a model: arenas of one layout (values, gradients, and operands where they differ), the tensors of
/// each group side by side, so that optimisers, averages and norms run over whole ranges. `offset` holds for any
/// further arena of this layout (moments, averages).
class ParamTable {
 public:
  /// Declares a tensor. `after` places it right after the tensor declared before (no gap), so that both can be
  /// read as one taller matrix; it then needs the same group.
  void param(Param& handle, std::string name, Shape shape, Init init, Group group, Codec codec,
             Averaging averaging = Averaging::on, bool after = false);
  /// Allocates values and gradients (ctx.full_dtype(), ctx.device), fills every handle, draws first values from `seed`.
  void allocate(const Ctx& ctx, uint64_t seed);
  /// Makes the operands equal to the values, rounded. To be called after writing values; optimiser steps do it
  /// themselves.
  void refresh_operands(const Ctx& ctx);

  std::span<const ParamSpec> specs() const { return specs_; }  // in order of declaration
  const ParamSpec* find(std::string_view name) const;
  int64_t numel() const { return numel_; }              // parameters, without alignment gaps
  int64_t arena_numel() const { return arena_numel_; }  // elements of an arena, gaps (always zero) included
  /// Half-open element range that holds a group, or all groups that one optimiser moves.
  std::pair<int64_t, int64_t> range(Group group) const { return ranges_[static_cast<int>(group)]; }
  std::pair<int64_t, int64_t> range(Mover mover) const;

  Tensor values() const { return Tensor(values_.data(), {arena_numel_}, dtype_, device_); }
  Tensor grads() const { return Tensor(grads_.data(), {arena_numel_}, dtype_, device_); }
  Tensor operands() const {
    return operands_.data() ? Tensor(operands_.data(), {arena_numel_}, DType::bf16, device_) : values();
  }
  /// The tensor of `spec` inside an arena of this layout.
  static Tensor view(const ParamSpec& spec, Tensor arena);

 private:
  std::vector<ParamSpec> specs_;
  std::vector<bool> after_;
  int64_t numel_ = 0, arena_numel_ = 0;
  std::pair<int64_t, int64_t> ranges_[kNumGroups];
  Buffer values_, grads_, operands_;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

/// First values of one tensor as float64, a pure function of (seed, spec.name).
std::vector<double> initial_values(const ParamSpec& spec, uint64_t seed);

/// One taller matrix over tensors that were declared with `after`: rows add up, columns agree.
Tensor stacked(std::initializer_list<Tensor> parts);

}  // namespace bg
