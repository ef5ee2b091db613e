// How the matrices of the blocks move: momentum, then a step along the nearest orthogonal matrix (Muon).
//
//   g' = s g (s: clipping);  buf = mu buf + g';  u = g' + mu buf;  O = NS(u) sqrt(max(1, rows / cols))
//   p = (1 - lr wd) p - lr O
// Source: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon); the factor sqrt(max(1, rows / cols)) is that of
// its code, github.com/KellerJordan/Muon: with it the rows of O have a mean square norm near 1 in tall matrices too.
#pragma once

#include <utility>
#include <vector>

#include "base/config.h"
#include "base/ctx.h"
#include "ranks/comm.h"
#include "tensor/buffer.h"
#include "tensor/params.h"

namespace bg {

struct MuonStep {
  double lr_factor = 1;  // of the schedule
  double momentum = 0;
  double grad_scale = 1;      // of clipping
  double average_weight = 0;  // 1 - decay of the running average
  int64_t newton_schulz_steps = 5;
};

/// Which of `world` ranks makes which matrix orthogonal: its rank for each of `shapes` (rows, columns), so that all
/// ranks have about the same arithmetic to do. Matrices of one shape are dealt out in turn.
std::vector<int> share_out(const std::vector<std::pair<int64_t, int64_t>>& shapes, int64_t world);

/// Moves all tensors of the groups that are Muon's, each with its group's step size and decay. A tensor of rank 3 or 4
/// counts as a matrix of its first dimension against the rest. Whole tensors are spread over the threads, largest
/// first, each with its own scratch. With `comm` (may be null) every rank makes its share orthogonal and gathers the
/// others'; gradients must be equal on all ranks.
class Muon {
 public:
  /// Throws InvalidArgument when a tensor of such a group has rank below 2.
  Muon(const Config& config, const Ctx& ctx, const ParamTable& params, Comm* comm);
  /// `momentum` and `average` are arenas of the table's layout; `average` may be empty. Allocates nothing.
  void step(const MuonStep& how, const ParamTable& params, Tensor momentum, Tensor average);
  /// Element ranges of the arenas that a step moves.
  std::vector<std::pair<int64_t, int64_t>> moved() const;

 private:
  struct Matrix {
    const ParamSpec* spec;
    GroupRates rates;
    int64_t rows, cols;
    bool own;
    int64_t slot;  // element of updates_, where there are several ranks
    int64_t numel() const { return rows * cols; }
  };
  /// Moves the momentum; u = the update, orthogonal where the matrix is this rank's own.
  void direct(const MuonStep& how, const Matrix& matrix, const ParamTable& params, Tensor momentum, Tensor u,
              Tensor scratch) const;
  void apply(const MuonStep& how, const Matrix& matrix, const ParamTable& params, Tensor average, Tensor u) const;
  void lay_out_updates();
  Tensor updates() const;

  Ctx ctx_;
  Comm* comm_;
  std::vector<Matrix> matrices_;  // largest first
  int64_t scratch_numel_ = 0;     // elements, per lane
  int64_t lanes_ = 0;             // matrices worked on at a time
  Buffer scratch_, updates_;      // updates: of all matrices, rank by rank
  int64_t share_numel_ = 0;       // elements of one rank's updates
};

}  // namespace bg
