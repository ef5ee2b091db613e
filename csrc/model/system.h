// What an architecture implements: its tensors and activations, the way from ids to logits and losses, and back.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "base/config.h"
#include "model/grid.h"
#include "model/losses.h"
#include "model/trunk.h"
#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// What a pass computes. Passes that differ in it launch different work.
struct Pass {
  bool revisit = true;  // blocks run as option visits says; else each once
  bool operator==(const Pass&) const = default;
  auto operator<=>(const Pass&) const = default;
};

/// How much of which loss a backward pass differentiates.
struct LossScale {
  double share = 1;         // of everything
  int64_t scored = 0;       // targets; those of -1 are not scored
  bool scheduled = false;   // whether the scheduled losses reach any parameter
  Tensor scheduled_weight;  // of those, rank 0, f64, on the device
  Tensor one;               // 1, rank 0, f64, on the device
};

/// One more id of a row that decodes.
struct NextId {
  static constexpr int kIds = 3;
  int32_t ids[kIds] = {0, 0, 0};  // at positions position-2, position-1, position
  int32_t position = -1;          // at least 2 and the row's length so far; -1: the row rests
  int32_t first = 0;              // first position that attention may see: of the row's last bos when doc_mask, else 0
  int32_t inject_end = 0;         // JEPA injects into positions before this
};

/// A family of models. The model around it (model.h) keeps parameters, plans, copies and checks of ids. All tensors of
/// ids are (B,T) i32 on the device. Tensors that reserve() names may be called under several plans: see Plan.
class System {
 public:
  virtual ~System() = default;
  virtual void declare(ParamTable& params) = 0;
  virtual void reserve(Plan& plan, int64_t B, int64_t T) = 0;
  /// Once after reserve() and the plan's allocation: fills what depends on sizes alone.
  virtual void begin(const Ctx& ctx) = 0;
  /// Throws InvalidArgument when these sizes cannot be computed.
  virtual void check_sizes(int64_t B, int64_t T, bool training) const = 0;
  /// Throws InvalidArgument when these targets (host memory) cannot be trained on.
  virtual void check_targets(std::span<const int32_t> targets, int64_t B, int64_t T) const = 0;
  virtual Flops flops(int64_t B, int64_t T, Pass pass) const = 0;

  /// Logits (B*T,V), valid until the next pass.
  virtual Tensor forward(const Ctx& ctx, Tensor ids, Pass pass, const Decoding& decoding) = 0;
  /// Nats of each target, nll (B*T) f64, of the last forward's logits.
  virtual void nll(const Ctx& ctx, Tensor targets, Tensor nll) = 0;
  /// Forward and losses: part[i] (rank 0, f64, zero before) receives row i of kLosses.
  virtual void losses(const Ctx& ctx, Tensor ids, Tensor targets, Pass pass, Tensor nll,
                      std::span<const Tensor> parts) = 0;
  /// After losses(): adds the gradients.
  virtual void backward(const Ctx& ctx, Tensor ids, Tensor targets, const LossScale& scale,
                        const GradientsReady& ready) = 0;
  /// Directions of SIGReg; nothing where a system has no such loss. Empty: those drawn from the seed.
  virtual void set_directions(const Ctx& ctx, std::span<const double> directions) = 0;

  /// Whether rows can grow by one id a step; else the functions below throw.
  virtual bool decodes() const = 0;
  /// For one position of each of `rows` rows, which have room for `positions`.
  virtual void reserve_steps(Plan& plan, int64_t rows, int64_t positions) = 0;
  virtual void begin_steps(const Ctx& ctx) = 0;
  /// Of one step of `rows` rows that each read `positions` positions.
  virtual Flops step_flops(int64_t rows, int64_t positions) const = 0;
  /// Ids (NextId::kIds a row), then positions, first and inject_end of each row: numbers (6 * rows) i32.
  virtual Tensor step(const Ctx& ctx, Tensor numbers, Pass pass, bool prepared) = 0;
  static constexpr int64_t kStepNumbers = NextId::kIds + 3;
  /// How an ordinary pass over one row fills `row` with its first `length` positions.
  virtual Decoding filling(const Ctx& ctx, int64_t row, int64_t length) = 0;
};

/// What option `architecture` names. Keeps a reference to `config`.
std::unique_ptr<System> make_system(const Config& config, uint64_t seed);

}  // namespace bg
