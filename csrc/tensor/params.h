// What the learned tensors are: each declared once, and that one row decides its allocation, start, optimiser,
// averaging and quantisation, and names it in checkpoints and artifacts.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/ctx.h"
#include "tensor/buffer.h"
#include "tensor/tensor.h"

namespace bg {

/// Which optimiser and step size move a tensor (rates_of() in optim/optimizer.h).
enum class Group : uint8_t {
  matrix,  // Muon, matrix_lr, muon_wd
  table,   // AdamW, tied_embed_lr, adam_wd
  head,    // AdamW, head_lr, adam_wd
  scalar,  // AdamW, scalar_lr, adam_wd
  jepa,    // AdamW, jepa_lr, no decay
};
constexpr int kNumGroups = 5;
/// How the artifact stores a tensor: as a block matrix, by the rule for all others, or not at all.
enum class Codec : uint8_t { matrix, other, left_out };
/// Whether EMA and SWA average it; what inference does not use need not be.
enum class Averaging : uint8_t { on, off };

/// The distribution of a tensor's first values.
struct Init {
  enum class Kind : uint8_t { constant, normal, uniform, orthogonal, rows } kind = Kind::constant;
  double a = 0, b = 0;
  static Init zeros() { return {Kind::constant, 0, 0}; }
  static Init ones() { return {Kind::constant, 1, 0}; }
  static Init constant(double v) { return {Kind::constant, v, 0}; }
  static Init normal(double std) { return {Kind::normal, std, 0}; }
  static Init uniform(double bound) { return {Kind::uniform, bound, 0}; }  // in (-bound, bound)
  static Init orthogonal() { return {Kind::orthogonal, 1, 0}; }            // rows or columns orthonormal, gain 1
  static Init rows(double first, double rest) { return {Kind::rows, first, rest}; }  // row 0 = first, others = rest
};

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
  /// Half-open element range that holds a group.
  std::pair<int64_t, int64_t> range(Group group) const { return ranges_[static_cast<int>(group)]; }

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
