#include "model/jepa.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "kernels/activation.h"
#include "kernels/chunk_shift.h"
#include "kernels/gemm.h"
#include "kernels/latent_loss.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"
#include "kernels/segment.h"
#include "model/linear_init.h"
#include "tensor/transfer.h"

namespace bg {
namespace {
constexpr Activation kSilu{Activation::Kind::silu, 0};
}

// Normals, each column over its length.
std::vector<double> draw_directions(int64_t latent, uint64_t seed) {
  const int64_t P = kSigregDirections;
  const Random random(seed, "sigreg_directions");
  std::vector<double> out(static_cast<size_t>(latent * P));
  for (size_t i = 0; i < out.size(); ++i) out[i] = random.normal(i);
  for (int64_t j = 0; j < P; ++j) {
    double square = 0;
    for (int64_t i = 0; i < latent; ++i) square += out[i * P + j] * out[i * P + j];
    for (int64_t i = 0; i < latent; ++i) out[i * P + j] /= std::sqrt(square);
  }
  return out;
}

void Jepa::declare(ParamTable& p) {
  const int64_t D = config_.model_dim, L = config_.jepa_latent_dim, F = config_.jepa_proj_hidden;
  p.param(project1_, "jepa_projector.fc1.weight", {F, D}, linear_init(D), Group::jepa, Codec::other);
  p.param(project2_, "jepa_projector.fc2.weight", {L, F}, linear_init(F), Group::jepa, Codec::other);
  p.param(start_, "jepa_predictor.start_token", {L}, Init::normal(0.02), Group::jepa, Codec::other);
  p.param(predict1_, "jepa_predictor.fc1.weight", {L, L}, linear_init(L), Group::jepa, Codec::other);
  p.param(predict2_, "jepa_predictor.fc2.weight", {L, L}, linear_init(L), Group::jepa, Codec::other);
  p.param(inject_, "jepa_injection.weight", {D, L}, Init::zeros(), Group::jepa, Codec::other);
}

void Jepa::reserve_steps(Plan& plan, int64_t rows) {
  const Plan::Scope scope(plan, "jepa_steps");
  const int64_t D = config_.model_dim;
  plan.keep(sum_, "sum", {rows, D}, plan.full_dtype());
  plan.keep(mean_, "mean", {rows, D});
  plan.keep(held_, "held", {rows, D});
  reserve(plan, rows, config_.jepa_chunk_size);  // one chunk a row
}

void Jepa::reserve(Plan& plan, int64_t B, int64_t T) {
  const Plan::Scope scope(plan, "jepa");
  const int64_t D = config_.model_dim, L = config_.jepa_latent_dim, F = config_.jepa_proj_hidden,
                C = T / config_.jepa_chunk_size, R = B * C;
  const int64_t P = kSigregDirections;
  plan.saved(m_, "m", {B, C, D});
  plan.saved(a1_, "a1", {R, F});
  plan.saved(r1_, "r1", {R}, plan.full_dtype());
  plan.saved(n1_, "n1", {R, F});
  plan.saved(s1_, "s1", {R, F});
  plan.saved(z_, "z", {B, C, L});
  plan.saved(before_, "before", {B, C, L});
  plan.saved(a2_, "a2", {R, L});
  plan.saved(r2_, "r2", {R}, plan.full_dtype());
  plan.saved(n2_, "n2", {R, L});
  plan.saved(s2_, "s2", {R, L});
  plan.saved(guess_, "guess", {R, L});
  plan.saved(added_, "added", {B, C, D});
  if (plan.training()) {
    plan.saved(standard_, "standard", {R, L});
    plan.saved(std_, "std", {L}, plan.full_dtype());
    plan.saved(projected_, "projected", {R, P});
    plan.saved(means_, "means", {2, P, kSigregPoints}, DType::f64);
  }
  plan.backward(dadded_, "dadded", {B, C, D});
  plan.backward(dlatent_, "dlatent", {R, L});
  plan.backward(dhidden_, "dhidden", {R, std::max(F, L)});
  plan.backward(dz_, "dz", {B, C, L});
  plan.backward(dbefore_, "dbefore", {B, C, L});
  plan.backward(dprojected_, "dprojected", {R, P});
  plan.backward(dstandard_, "dstandard", {R, L});
}

// The projection on directions is part of the losses, as are the gradients of all but the injection.
Flops Jepa::flops(int64_t B, int64_t T) const {
  const int64_t D = config_.model_dim, L = config_.jepa_latent_dim, F = config_.jepa_proj_hidden,
                R = B * (T / config_.jepa_chunk_size);
  return linear_flops(R, F * D + L * F + 2 * L * L + D * L + L * kSigregDirections);
}

void Jepa::set_directions(const Ctx& ctx, std::span<const double> directions) {
  const Shape shape{config_.jepa_latent_dim, kSigregDirections};
  BG_CHECK(static_cast<int64_t>(directions.size()) == shape.numel(), "sigreg_directions holds", directions.size(),
           "values, expected", shape.str());
  if (!directions_) {
    direction_memory_ = Buffer(static_cast<size_t>(shape.numel()) * size_of(ctx.dtype), ctx.device);
    directions_ = Tensor(direction_memory_.data(), shape, ctx.dtype, ctx.device);
  }
  upload(ctx, directions, directions_);
}

// z_ of chunk means m (R,D).
void Jepa::project(const Ctx& ctx, Tensor m) {
  linear_forward(ctx, m, project1_.operand, a1_);
  rms_norm_forward(ctx, a1_, 1, config_.norm_eps, n1_, r1_);
  activation_forward(ctx, kSilu, n1_, s1_);
  linear_forward(ctx, s1_, project2_.operand, z_.reshape(guess_.shape()));
}

// guess_ from before_.
void Jepa::predict(const Ctx& ctx) {
  linear_forward(ctx, before_.reshape(guess_.shape()), predict1_.operand, a2_);
  rms_norm_forward(ctx, a2_, 1, config_.norm_eps, n2_, r2_);
  activation_forward(ctx, kSilu, n2_, s2_);
  linear_forward(ctx, s2_, predict2_.operand, guess_);
}

// What row `row` has at position `length`: x (1,T,D) before the injection, added_ and m_ of this pass.
void Jepa::fill(const Ctx& ctx, Tensor x, const Decoding& decoding) {
  const int64_t D = config_.model_dim, chunk = config_.jepa_chunk_size, c = decoding.length / chunk,
                inside = decoding.length % chunk, whole = m_.dim(1);
  const auto of_row = [&](Tensor t) { return t.slice(0, decoding.row, decoding.row + 1); };
  const auto of_chunk = [&](Tensor t, int64_t i) { return t.reshape({whole, D}).slice(0, i, i + 1); };
  if (c > 0) copy_tensor(ctx, of_chunk(m_, c - 1), of_row(mean_));
  if (inside == 0) return;
  if (c < whole) copy_tensor(ctx, of_chunk(added_, c), of_row(held_));
  segment_step(ctx, x.slice(1, c * chunk, decoding.length), decoding.chunk_at, decoding.limit, chunk, of_row(held_),
               of_row(sum_), of_row(mean_), of_row(held_));
}

// Chunk means, latents and predictions of every row each time, needed only where a chunk opens: two in a hundred of a
// step's arithmetic, and every step is the same work.
void Jepa::step(const Ctx& ctx, Tensor x, const Decoding& decoding) {
  const int64_t rows = x.dim(0), D = x.dim(1);
  project(ctx, mean_);
  copy_tensor(ctx, z_, before_);
  predict(ctx);
  linear_forward(ctx, guess_, inject_.operand, added_.reshape({rows, D}));
  segment_step(ctx, x.reshape({rows, 1, D}), decoding.at, decoding.limit, config_.jepa_chunk_size,
               added_.reshape({rows, D}), sum_, mean_, held_);
}

void Jepa::forward(const Ctx& ctx, Tensor x, bool losses, Tensor pred, Tensor sigreg, const Decoding& decoding) {
  const bool filling = decoding.kind == Decoding::Kind::fill;
  if (empty()) {
    if (filling) fill(ctx, x, decoding);
    return;
  }
  const int64_t D = config_.model_dim, L = config_.jepa_latent_dim, R = guess_.dim(0);
  segment_mean_forward(ctx, x, Segments::equal(x.dim(1), config_.jepa_chunk_size), m_);
  project(ctx, m_.reshape({R, D}));
  chunk_shift_forward(ctx, z_, start_.value, before_);
  predict(ctx);
  if (losses) {
    mse_forward(ctx, guess_, z_, pred);
    if (R >= 2) {
      standardise_forward(ctx, z_.reshape({R, L}), standard_, std_);
      gemm(ctx, 1, standard_, Op::none, directions_, Op::none, 0, projected_);
      sigreg_forward(ctx, projected_, means_, sigreg);
    }
  }
  linear_forward(ctx, guess_, inject_.operand, added_.reshape({R, D}));
  if (filling) fill(ctx, x, decoding);
  segment_add_forward(ctx, added_, Segments::equal(x.dim(1), config_.jepa_chunk_size), x);
}

void Jepa::backward(const Ctx& ctx, Tensor dx, bool losses, double scale, Tensor weight) {
  if (empty()) return;
  const int64_t D = config_.model_dim, L = config_.jepa_latent_dim, F = config_.jepa_proj_hidden, R = guess_.dim(0);
  segment_add_backward(ctx, dx, Segments::equal(dx.dim(1), config_.jepa_chunk_size), dadded_);
  linear_backward_weight(ctx, guess_, dadded_.reshape({R, D}), inject_.grad);
  if (!losses) return;

  mse_backward(ctx, guess_, z_, scale, weight, dlatent_);
  const Tensor dpredict(dhidden_.data(), {R, L}, dhidden_.dtype(), dhidden_.device());
  linear_backward_weight(ctx, s2_, dlatent_, predict2_.grad);
  linear_backward_input(ctx, dlatent_, predict2_.operand, dpredict);
  activation_backward(ctx, kSilu, n2_, dpredict, dpredict, Tensor());
  rms_norm_backward(ctx, n2_, r2_, 1, dpredict, dpredict, Write::set);
  linear_backward_weight(ctx, before_.reshape({R, L}), dpredict, predict1_.grad);
  linear_backward_input(ctx, dpredict, predict1_.operand, dbefore_.reshape({R, L}));

  const Tensor dz = dz_.reshape({R, L});
  fill_zero(ctx, dz);
  if (R >= 2 && config_.jepa_sigreg_weight != 0) {
    sigreg_backward(ctx, projected_, means_, scale * config_.jepa_sigreg_weight, weight, dprojected_);
    gemm(ctx, 1, dprojected_, Op::none, directions_, Op::transpose, 0, dstandard_);
    standardise_backward(ctx, standard_, std_, dstandard_, dz, Write::set);
  }
  chunk_shift_backward(ctx, dbefore_, dz_, start_.grad);
  const Tensor dproject(dhidden_.data(), {R, F}, dhidden_.dtype(), dhidden_.device());
  linear_backward_weight(ctx, s1_, dz, project2_.grad);
  linear_backward_input(ctx, dz, project2_.operand, dproject);
  activation_backward(ctx, kSilu, n1_, dproject, dproject, Tensor());
  rms_norm_backward(ctx, n1_, r1_, 1, dproject, dproject, Write::set);
  linear_backward_weight(ctx, m_.reshape({R, D}), dproject, project1_.grad);
}

}  // namespace bg
