// The JEPA side path: chunk latents, their prediction from the chunk before, and the prediction's way back into the
// stream.
#pragma once

#include <span>
#include <vector>

#include "base/config.h"
#include "model/grid.h"
#include "tensor/params.h"
#include "tensor/plan.h"

namespace bg {

/// Directions on which SIGReg projects.
inline constexpr int64_t kSigregDirections = 256;
/// Those of a seed: unit columns (latent, kSigregDirections), row-major.
std::vector<double> draw_directions(int64_t latent, uint64_t seed);

/// m[c] = mean of stop_gradient(x) over chunk c;  z = P2 silu(rms(P1 m));  ẑ[c] = Q2 silu(rms(Q1 z[c-1]));
/// x[positions of c] += W_inj stop_gradient(ẑ[c]).  Losses: mean (ẑ - stop_gradient(z))² and SIGReg(z).
/// Projector and predictor learn from the losses alone, W_inj from the cross-entropy alone.
class Jepa {
 public:
  explicit Jepa(const Config& config) : config_(config) {}
  void declare(ParamTable& params);
  void reserve(Plan& plan, int64_t B, int64_t T);
  Flops flops(int64_t B, int64_t T) const;
  /// For steps of `rows` rows.
  void reserve_steps(Plan& plan, int64_t rows);
  /// Unit columns (latent, 256) on which SIGReg projects.
  void set_directions(const Ctx& ctx, std::span<const double> directions);
  /// x (B,T,D) is added to in place. With losses wanted, pred and sigreg (rank 0, f64) receive them; SIGReg needs at
  /// least two chunks in the batch and is 0 otherwise.
  void forward(const Ctx& ctx, Tensor x, bool losses, Tensor pred, Tensor sigreg, const Decoding& decoding = {});
  /// One position a row: x (rows,D) is added to in place.
  void step(const Ctx& ctx, Tensor x, const Decoding& decoding);
  /// dx (B,T,D): gradient of x after the injection, left as it is. With `losses`, scale * weight (rank 0, f64, on the
  /// device) of the prediction loss reaches projector and predictor.
  void backward(const Ctx& ctx, Tensor dx, bool losses, double scale, Tensor weight);

 private:
  void project(const Ctx& ctx, Tensor m);
  void predict(const Ctx& ctx);
  void fill(const Ctx& ctx, Tensor x, const Decoding& decoding);
  bool empty() const { return m_.numel() == 0; }  // fewer positions than one chunk
  const Config& config_;
  Buffer direction_memory_;
  Tensor directions_;
  Param project1_, project2_, start_, predict1_, predict2_, inject_;
  Tensor m_, a1_, r1_, n1_, s1_, z_, before_, a2_, r2_, n2_, s2_, guess_, added_;
  // Of each row that decodes: sum over its chunk so far, mean of its last whole chunk, what its chunk gets (rows, D).
  Tensor sum_, mean_, held_;
  Tensor standard_, std_, projected_, means_;
  Tensor dadded_, dlatent_, dhidden_, dz_, dbefore_, dprojected_, dstandard_;
};

}  // namespace bg
