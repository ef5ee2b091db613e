#include "model/unet.h"

#include <cmath>

#include "kernels/latent_loss.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/residual.h"
#include "kernels/shift_ids.h"
#include "kernels/take_rows.h"
#include "model/family.h"
#include "tensor/transfer.h"

namespace bg {

Unet::Unet(const Config& config, uint64_t seed)
    : config_(config), seed_(seed), input_(config), trunk_(stack_of(config)), output_(config, input_) {
  if (config.jepa_chunk_size > 0) jepa_ = std::make_unique<Jepa>(config);
  if (config.jepa_pred_k > 0) latent_ = std::make_unique<LatentHead>(config, input_);
}

void Unet::declare(ParamTable& params) {
  trunk_.declare_skips(params);
  input_.declare(params);
  if (latent_) latent_->declare(params);
  trunk_.declare_blocks(params);
  if (jepa_) jepa_->declare(params);
  output_.declare(params);
}

void Unet::reserve(Plan& plan, int64_t B, int64_t T) {
  const int64_t K = config_.patch_size;
  grid_.B = B, grid_.T = T / K;
  plan.keep(grid_.rope, "rope", {T / K, config_.rotary_dims()}, plan.full_dtype());
  if (config_.doc_mask) plan.keep(grid_.first, "doc_start", {B, T}, DType::i32);
  if (plan.training()) plan.keep(dx_, "dx", {B * (T / K), config_.model_dim});
  input_.reserve(plan, B, T);
  trunk_.reserve(plan, {B, T / K});
  if (jepa_) jepa_->reserve(plan, B, T);
  output_.reserve(plan, B, T);
  if (latent_) latent_->reserve(plan, B, T);
}

void Unet::fill_rope(const Ctx& ctx, Tensor table) const {
  rope_table(ctx, config_.rope_base, config_.rope_train_len, table);
}
void Unet::begin(const Ctx& ctx) {
  fill_rope(ctx, grid_.rope);
}

void Unet::check_sizes(int64_t, int64_t T, bool training) const {
  BG_CHECK(T % config_.patch_size == 0, "T =", T, "is not a multiple of patch_size =", config_.patch_size);
  BG_CHECK(!training || !latent_ || T > config_.jepa_pred_k, "T =", T,
           "must exceed jepa_pred_k =", config_.jepa_pred_k);
}

void Unet::check_targets(std::span<const int32_t> targets, int64_t B, int64_t T) const {
  if (!latent_) return;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = config_.jepa_pred_k; t < T; ++t)
      BG_CHECK(targets[static_cast<size_t>(b * T + t)] >= 0, "the latent head needs every target, but row", b,
               "position", t, "has none");
}

Flops Unet::flops(int64_t B, int64_t T, Pass pass) const {
  Flops flops = trunk_.flops({B, T / config_.patch_size}, pass.revisit);
  flops += input_.flops(B, T);
  flops += output_.flops(B, T);
  if (jepa_) flops += jepa_->flops(B, T);
  if (latent_) flops += latent_->flops(B, T);
  return flops;
}

Tensor Unet::pass(const Ctx& ctx, Tensor ids, Pass pass, const Decoding& decoding, std::span<const Tensor> parts) {
  grid_.B = ids.dim(0), grid_.T = ids.dim(1) / config_.patch_size;
  grid_.decoding = decoding;
  if (config_.doc_mask) document_starts(ctx, ids, static_cast<int32_t>(config_.bos_id()), grid_.first);
  x0_ = input_.forward(ctx, ids);
  const Tensor x = trunk_.forward(ctx, x0_, grid_, pass.revisit);
  if (jepa_) {
    const auto part = [&](Loss loss) { return parts.empty() ? Tensor() : parts[static_cast<size_t>(loss)]; };
    jepa_->forward(ctx, x.reshape({ids.dim(0), ids.dim(1), config_.model_dim}), !parts.empty(), part(Loss::jepa_pred),
                   part(Loss::jepa_sigreg), decoding);
  }
  return output_.forward(ctx, x);
}

Tensor Unet::forward(const Ctx& ctx, Tensor ids, Pass how, const Decoding& decoding) {
  return pass(ctx, ids, how, decoding, {});
}

void Unet::nll(const Ctx& ctx, Tensor targets, Tensor nll) {
  output_.nll(ctx, targets, nll);
}

void Unet::losses(const Ctx& ctx, Tensor ids, Tensor targets, Pass how, Tensor nll, std::span<const Tensor> parts) {
  if (latent_) shift_ids(ctx, targets, config_.jepa_pred_k, latent_->ahead());
  pass(ctx, ids, how, {}, parts);
  output_.nll(ctx, targets, nll);
  sum_f64(ctx, nll, parts[static_cast<size_t>(Loss::ce)]);
  if (latent_) latent_->forward(ctx, output_.normed(), parts[static_cast<size_t>(Loss::latent)]);
}

void Unet::backward(const Ctx& ctx, Tensor ids, Tensor targets, const LossScale& scale, const GradientsReady& ready) {
  output_.backward_logits(ctx, targets, scale.share / static_cast<double>(scale.scored), dx_);
  if (latent_) latent_->backward(ctx, output_.normed(), scale.share * config_.jepa_weight, scale.one, dx_);
  output_.backward_norm(ctx, dx_);
  if (jepa_)
    jepa_->backward(ctx, dx_.reshape({ids.dim(0), ids.dim(1), config_.model_dim}), scale.scheduled, scale.share,
                    scale.scheduled_weight);
  trunk_.backward(ctx, x0_, grid_, dx_, ready);
  input_.backward(ctx, ids, dx_);
}

void Unet::set_directions(const Ctx& ctx, std::span<const double> directions) {
  if (!jepa_ || (directions.empty() && directions_drawn_)) return;
  if (directions.empty())
    jepa_->set_directions(ctx, draw_directions(config_.jepa_latent_dim, seed_));
  else
    jepa_->set_directions(ctx, directions);
  directions_drawn_ = directions.empty();  // given ones serve until the next call; then they are drawn again
}

// The input stage takes the two ids before a position too: the pair before the last is what smear sees of the position
// before.
void Unet::reserve_steps(Plan& plan, int64_t rows, int64_t positions) {
  const int64_t rotary = config_.rotary_dims();
  // Inputs longer than rope_train_len turn by their length: then they are as long as can be.
  const int64_t angles = config_.seq_len > config_.rope_train_len ? config_.seq_len : positions;
  steps_.B = 1, steps_.T = rows;
  plan.keep(step_last_, "step.last", {rows}, DType::i32);
  plan.keep(fill_numbers_, "step.fill_numbers", {3}, DType::i32);
  plan.keep(step_rope_table_, "step.rope_table", {angles, rotary}, plan.full_dtype());
  plan.keep(steps_.rope, "step.rope", {rows, rotary}, plan.full_dtype());
  plan.keep(step_x0_, "step.x0", {rows, config_.model_dim});
  input_.reserve(plan, rows, NextId::kIds);
  trunk_.reserve(plan, {1, rows, positions});
  if (jepa_) jepa_->reserve_steps(plan, rows);
  output_.reserve(plan, rows, 1);
}

namespace {
void set_numbers(const Ctx& ctx, std::span<const int32_t> values, Tensor to) {
  copy_bytes(ctx, to.data(), to.device(), values.data(), Device::cpu, values.size_bytes());
}
}  // namespace

void Unet::begin_steps(const Ctx& ctx) {
  fill_rope(ctx, step_rope_table_);
  std::vector<int32_t> last(static_cast<size_t>(step_last_.dim(0)));
  for (size_t b = 0; b < last.size(); ++b) last[b] = static_cast<int32_t>((b + 1) * NextId::kIds - 1);
  set_numbers(ctx, last, step_last_);
}

// The input stage makes three positions a row, of which one is used: only that is counted.
Flops Unet::step_flops(int64_t rows, int64_t positions) const {
  Flops flops = trunk_.flops({1, rows, positions}, true);
  flops += input_.flops(rows, 1);
  flops += output_.flops(rows, 1);
  return flops;
}

Tensor Unet::step(const Ctx& ctx, Tensor numbers, Pass pass, bool prepared) {
  const int64_t rows = numbers.numel() / kStepNumbers;
  const auto part = [&](int64_t from) { return numbers.slice(0, from * rows, (from + 1) * rows); };
  steps_.B = 1, steps_.T = rows;
  Decoding& d = steps_.decoding;
  d.kind = Decoding::Kind::step;
  d.at = part(NextId::kIds);
  d.first = part(NextId::kIds + 1);
  d.limit = part(NextId::kIds + 2);
  d.prepared = prepared;
  const Tensor in = input_.forward(ctx, numbers.slice(0, 0, NextId::kIds * rows).reshape({rows, NextId::kIds}));
  take_rows(ctx, in, step_last_, step_x0_);
  take_rows(ctx, step_rope_table_, d.at, steps_.rope);
  const Tensor x = trunk_.forward(ctx, step_x0_, steps_, pass.revisit);
  if (jepa_) jepa_->step(ctx, x, d);
  return output_.forward(ctx, x);
}

Decoding Unet::filling(const Ctx& ctx, int64_t row, int64_t length) {
  Decoding d;
  d.kind = Decoding::Kind::fill;
  d.row = row;
  d.length = length;
  const int64_t chunk = std::max<int64_t>(1, config_.jepa_chunk_size);
  set_numbers(ctx, std::vector<int32_t>{0, 0, static_cast<int32_t>(length / chunk * chunk)}, fill_numbers_);
  d.at = fill_numbers_.slice(0, 0, 1);
  d.limit = fill_numbers_.slice(0, 1, 2);
  d.chunk_at = fill_numbers_.slice(0, 2, 3);
  return d;
}

}  // namespace bg
