#include "model/model.h"

#include <cmath>

#include "base/random.h"
#include "base/recording.h"
#include "kernels/latent_loss.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/residual.h"
#include "kernels/shift_ids.h"
#include "kernels/take_rows.h"
#include "model/head.h"
#include "model/input.h"
#include "model/jepa.h"
#include "model/trunk.h"
#include "tensor/transfer.h"

namespace bg {
namespace {

const Config& validated(const Config& config) {
  config.validate();
  return config;
}

// Unit columns (latent, 256): normals, each column over its length.
std::vector<double> draw_directions(int64_t latent, uint64_t seed) {
  const int64_t P = Model::kSigregDirections;
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

}  // namespace

struct Model::Impl {
  Config config;
  Ctx ctx;
  uint64_t seed;
  ParamTable params;
  InputStage input;
  Trunk trunk;
  std::unique_ptr<Jepa> jepa;
  OutputStage output;
  std::unique_ptr<LatentHead> latent;

  // What the whole step keeps; see reserve().
  Tensor ids, targets, nll, parts, dx;
  Positions positions;

  struct Planned {
    int64_t B = 0, T = 0;
    std::unique_ptr<Plan> plan;
  };
  Planned planned[3];  // by Purpose
  const Plan* active = nullptr;
  int64_t plan_number = 0;

  Buffer constants;  // rank 0, f64: the weight of the JEPA losses of loss(), and 1
  Tensor constant(int64_t i) const {
    return Tensor(constants.at(static_cast<size_t>(i) * 8), {}, DType::f64, ctx.device);
  }
  Tensor part(int64_t i) const { return Tensor(static_cast<double*>(parts.data()) + i, {}, DType::f64, ctx.device); }

  GradientsReady ready;
  // Steps of decoding; see reserve_steps().
  Tensor step_numbers, step_last, step_rope_table, step_x0, fill_numbers;
  Positions step_positions;
  Staging step_in, step_out;
  Recording step_recording;
  int64_t decoding_number = 0, steps_done = 0;

  bool directions_drawn = false;
  Tensor x0, x;  // of the last forward
  int64_t scored = 0;
  double lambda = 0;
  bool backward_due = false;

  Impl(const Config& c, const Ctx& context, uint64_t s)
      : config(validated(c)), ctx(context), seed(s), input(config), trunk(config), output(config, input) {
    if (config.jepa_chunk_size > 0) jepa = std::make_unique<Jepa>(config);
    if (config.jepa_pred_k > 0) latent = std::make_unique<LatentHead>(config, input);
    trunk.declare_skips(params);
    input.declare(params);
    if (latent) latent->declare(params);
    trunk.declare_blocks(params);
    if (jepa) jepa->declare(params);
    output.declare(params);
    params.allocate(ctx, seed);
    constants = Buffer(2 * sizeof(double), ctx.device);
    upload(ctx, std::vector<double>{1.0}, constant(1));
  }

  void reserve(Plan& plan, int64_t B, int64_t T) {
    const int64_t K = config.patch_size, rotary = config.rope_dims == 0 ? config.head_dim() : config.rope_dims;
    plan.keep(ids, "ids", {B, T}, DType::i32);
    plan.keep(targets, "targets", {B, T}, DType::i32);
    plan.keep(nll, "nll", {B * T}, DType::f64);
    plan.keep(parts, "loss_parts", {kLossParts}, DType::f64);
    plan.keep(positions.rope, "rope", {T / K, rotary}, plan.full_dtype());
    if (config.doc_mask) plan.keep(positions.doc_start, "doc_start", {B, T}, DType::i32);
    if (plan.training()) plan.keep(dx, "dx", {B * (T / K), config.model_dim});
    input.reserve(plan, B, T);
    trunk.reserve(plan, {B, T / K});
    if (jepa) jepa->reserve(plan, B, T);
    output.reserve(plan, B, T);
    if (latent) latent->reserve(plan, B, T);
  }

  // One position of each of `rows` rows. The input stage takes the two ids before it too: the pair before the last is
  // what smear sees of the position before.
  void reserve_steps(Plan& plan, int64_t rows, int64_t positions) {
    const int64_t rotary = config.rope_dims == 0 ? config.head_dim() : config.rope_dims;
    plan.keep(step_numbers, "step.numbers", {kStepNumbers * rows}, DType::i32);
    plan.keep(step_last, "step.last", {rows}, DType::i32);
    plan.keep(fill_numbers, "step.fill_numbers", {3}, DType::i32);
    plan.keep(step_rope_table, "step.rope_table", {angles(positions), rotary}, plan.full_dtype());
    plan.keep(step_positions.rope, "step.rope", {rows, rotary}, plan.full_dtype());
    plan.keep(step_x0, "step.x0", {rows, config.model_dim});
    input.reserve(plan, rows, kStepIds);
    trunk.reserve(plan, {1, rows, positions});
    if (jepa) jepa->reserve_steps(plan, rows);
    output.reserve(plan, rows, 1);
  }
  static constexpr int64_t kStepIds = 3, kStepNumbers = 6;  // a row: ids, position, first, inject_end
  // Inputs longer than rope_train_len turn by their length: then they are as long as can be.
  int64_t angles(int64_t positions) const {
    return config.seq_len > config.rope_train_len ? config.seq_len : positions;
  }

  void check_ids(std::span<const int32_t> given, int64_t B, int64_t T, int64_t lowest, const char* what) const {
    BG_CHECK(B >= 1 && T >= 1 && static_cast<int64_t>(given.size()) == B * T, what, "must be (B,T) = (", B, ",", T,
             "), got", given.size(), "values");
    for (size_t i = 0; i < given.size(); ++i)
      BG_CHECK(given[i] >= lowest && given[i] < config.vocab_size(), what, "row", static_cast<int64_t>(i) / T,
               "position", static_cast<int64_t>(i) % T, "holds id", given[i], "outside the vocabulary 0 ..",
               config.vocab_size() - 1);
  }

  // Makes or finds the plan for these sizes.
  void prepare(Purpose purpose, std::span<const int32_t> given, int64_t B, int64_t T) {
    backward_due = false;
    check_ids(given, B, T, 0, "ids");
    BG_CHECK(T % config.patch_size == 0, "T =", T, "is no multiple of patch_size =", config.patch_size);
    BG_CHECK(purpose == Purpose::infer || !latent || T > config.jepa_pred_k, "T =", T,
             "must exceed jepa_pred_k =", config.jepa_pred_k);
    if (use_plan(purpose, B, T)) rope_table(ctx, config.rope_base, config.rope_train_len, positions.rope);
  }
  // Whether the plan is a new one. For decode B counts rows and T what their caches hold.
  bool use_plan(Purpose purpose, int64_t B, int64_t T) {
    Planned& p = planned[static_cast<int>(purpose)];
    if (p.plan && p.B == B && p.T == T) {
      if (active != p.plan.get()) p.plan->activate();
      active = p.plan.get();
      return false;
    }
    active = nullptr;
    p.plan.reset();  // first: two plans of one purpose need not fit in memory together
    auto plan = std::make_unique<Plan>(ctx, purpose);
    if (purpose == Purpose::decode)
      reserve_steps(*plan, B, T);
    else
      reserve(*plan, B, T);
    commit(*plan, B, T);
    p = {B, T, std::move(plan)};
    active = p.plan.get();
    ++plan_number;
    return true;
  }
  void commit(Plan& plan, int64_t B, int64_t T) const {
    try {
      plan.commit();
    } catch (const SystemError& error) {
      const double gigabytes = static_cast<double>(plan.needed_bytes()) / 1e9;
      const auto rows = static_cast<int64_t>(0.98 * static_cast<double>(free_bytes(ctx)) /
                                             static_cast<double>(plan.needed_bytes()) * static_cast<double>(B));
      const std::string hint =
          rows > 0 ? words("; about", rows, "rows would fit (micro_batch_ids =", rows * T, ")") : "";
      if (plan.decoding())
        throw SystemError(words(error.what(), "- caches of", B, "rows of", T, "ids take", gigabytes, "GB"));
      throw SystemError(words(error.what(), "- activations of", B, "rows of", T, "ids take", gigabytes, "GB") + hint);
    }
  }
  void copy_in(std::span<const int32_t> given, Tensor to) const {
    copy_bytes(ctx, to.data(), to.device(), given.data(), Device::cpu, given.size_bytes());
  }

  Tensor forward(bool losses, const Decoding& decoding = {}) {
    positions.decoding = decoding;
    if (config.doc_mask) document_starts(ctx, ids, static_cast<int32_t>(config.bos_id()), positions.doc_start);
    x0 = input.forward(ctx, ids);
    x = trunk.forward(ctx, x0, positions);
    if (jepa)
      jepa->forward(ctx, x.reshape({ids.dim(0), ids.dim(1), config.model_dim}), losses, part(1), part(2), decoding);
    return output.forward(ctx, x);
  }

  void set_numbers(std::span<const int32_t> values, Tensor to) const {
    copy_bytes(ctx, to.data(), to.device(), values.data(), Device::cpu, values.size_bytes());
  }
  // Everything of a step but the host's part.
  void enqueue_step(bool prepared) {
    const int64_t rows = step_last.dim(0);
    const auto numbers = [&](int64_t from) { return step_numbers.slice(0, from * rows, (from + 1) * rows); };
    enqueue_copy(ctx, step_numbers.data(), step_in.data(), step_numbers.size_bytes());
    Decoding& d = step_positions.decoding;
    d.kind = Decoding::Kind::step;
    d.at = numbers(kStepIds);
    d.first = numbers(kStepIds + 1);
    d.limit = numbers(kStepIds + 2);
    d.prepared = prepared;
    const Tensor in = input.forward(ctx, step_numbers.slice(0, 0, kStepIds * rows).reshape({rows, kStepIds}));
    take_rows(ctx, in, step_last, step_x0);
    take_rows(ctx, step_rope_table, d.at, step_positions.rope);
    const Tensor out = trunk.forward(ctx, step_x0, step_positions);
    if (jepa) jepa->step(ctx, out, d);
    const Tensor logits = output.forward(ctx, out);
    enqueue_copy(ctx, step_out.data(), logits.data(), logits.size_bytes());
  }

  // How many targets are scored.
  int64_t check_targets(std::span<const int32_t> given, int64_t B, int64_t T, bool training) const {
    check_ids(given, B, T, -1, "targets");
    int64_t count = 0;
    for (int32_t t : given) count += t >= 0;
    if (!training) return count;
    BG_CHECK(count > 0, "a loss needs at least one target; all", given.size(), "are -1");
    if (latent)
      for (int64_t b = 0; b < B; ++b)
        for (int64_t t = config.jepa_pred_k; t < T; ++t)
          BG_CHECK(given[static_cast<size_t>(b * T + t)] >= 0, "the latent head needs every target, but row", b,
                   "position", t, "has none");
    return count;
  }

  // Sums and means of the losses into `parts`: ce (a sum), jepa_pred, jepa_sigreg, latent.
  void enqueue_losses() {
    clear_bytes(ctx, ctx.device, parts.data(), parts.size_bytes());
    if (latent) shift_ids(ctx, targets, config.jepa_pred_k, latent->ahead());
    forward(true);
    output.nll(ctx, targets, nll);
    sum_f64(ctx, nll, part(0));
    if (latent) latent->forward(ctx, output.normed(), part(3));
  }

  // Adds share times the gradients of (ce / scored + jepa_weight * the JEPA losses + jepa_weight option * latent).
  void enqueue_gradients(double share, int64_t count, bool jepa_losses, Tensor jepa_weight) {
    output.backward_logits(ctx, targets, share / static_cast<double>(count), dx);
    if (latent) latent->backward(ctx, output.normed(), share * config.jepa_weight, constant(1), dx);
    output.backward_norm(ctx, dx);
    if (jepa)
      jepa->backward(ctx, dx.reshape({ids.dim(0), ids.dim(1), config.model_dim}), jepa_losses, share, jepa_weight);
    trunk.backward(ctx, x0, positions, dx, ready);
    input.backward(ctx, ids, dx);
  }
};

Model::Model(const Config& config, const Ctx& ctx, uint64_t seed) : impl_(std::make_unique<Impl>(config, ctx, seed)) {}
Model::~Model() = default;
const Config& Model::config() const {
  return impl_->config;
}
const Ctx& Model::ctx() const {
  return impl_->ctx;
}
ParamTable& Model::params() {
  return impl_->params;
}
const ParamTable& Model::params() const {
  return impl_->params;
}

Tensor Model::logits(std::span<const int32_t> ids, int64_t B, int64_t T) {
  impl_->prepare(Purpose::infer, ids, B, T);
  impl_->copy_in(ids, impl_->ids);
  return impl_->forward(false).reshape({B, T, impl_->config.vocab_size()});
}

std::shared_ptr<const void> Model::activations() const {
  return impl_->active ? impl_->active->memory() : nullptr;
}

void Model::nll(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                std::span<double> out) {
  Impl& m = *impl_;
  BG_CHECK(out.size() == ids.size(), "nll of", ids.size(), "ids into", out.size(), "values");
  m.prepare(Purpose::infer, ids, B, T);
  m.check_targets(targets, B, T, false);
  m.copy_in(ids, m.ids);
  m.copy_in(targets, m.targets);
  m.forward(false);
  m.output.nll(m.ctx, m.targets, m.nll);
  copy_bytes(m.ctx, out.data(), Device::cpu, m.nll.data(), m.ctx.device, out.size_bytes());
}

int64_t Model::start_decoding(int64_t rows, int64_t positions) {
  Impl& m = *impl_;
  const Config& c = m.config;
  BG_CHECK(c.patch_size == 1, "patches of patch_size =", c.patch_size, "bytes have no steps of one id");
  BG_CHECK(rows >= 1 && positions >= 1, "decoding", rows, "rows of", positions, "positions");
  constexpr int64_t kStep = 256;  // so that a few ids more or fewer need no new plan
  positions = std::min((positions + kStep - 1) / kStep * kStep, std::max(positions, c.seq_len));
  m.backward_due = false;
  m.steps_done = 0;
  ++m.decoding_number;  // first: a plan that does not fit takes the old one with it
  if (m.use_plan(Purpose::decode, rows, positions)) {
    m.step_recording = {};
    const size_t full = size_of(m.ctx.full_dtype());
    m.step_in = Staging(m.ctx, static_cast<size_t>(Impl::kStepNumbers * rows) * sizeof(int32_t));
    m.step_out = Staging(m.ctx, static_cast<size_t>(rows * c.vocab_size()) * full);
    rope_table(m.ctx, c.rope_base, c.rope_train_len, m.step_rope_table);
    std::vector<int32_t> last(static_cast<size_t>(rows));
    for (int64_t b = 0; b < rows; ++b) last[b] = static_cast<int32_t>((b + 1) * Impl::kStepIds - 1);
    m.set_numbers(last, m.step_last);
  }
  return m.decoding_number;
}

int64_t Model::decoding() const {
  return impl_->decoding_number;
}

Tensor Model::decode_prompt(int64_t row, std::span<const int32_t> ids, int64_t length) {
  Impl& m = *impl_;
  const auto T = static_cast<int64_t>(ids.size());
  const Impl::Planned& steps = m.planned[static_cast<int>(Purpose::decode)];
  BG_CHECK(steps.plan && row >= 0 && row < steps.B && length >= 1 && length <= T && length <= steps.T, "row", row,
           "of decoding with", length, "of", T, "ids where there is room for", steps.B, "rows of", steps.T);
  m.prepare(Purpose::infer, ids, 1, T);
  m.copy_in(ids, m.ids);
  Decoding d;
  d.kind = Decoding::Kind::fill;
  d.row = row;
  d.length = length;
  const int64_t chunk = std::max<int64_t>(1, m.config.jepa_chunk_size);
  m.set_numbers(std::vector<int32_t>{0, 0, static_cast<int32_t>(length / chunk * chunk)}, m.fill_numbers);
  d.at = m.fill_numbers.slice(0, 0, 1);
  d.limit = m.fill_numbers.slice(0, 1, 2);
  d.chunk_at = m.fill_numbers.slice(0, 2, 3);
  return m.forward(false, d).slice(0, length - 1, length).reshape({m.config.vocab_size()});
}

Tensor Model::decode_step(std::span<const NextId> next) {
  Impl& m = *impl_;
  const Impl::Planned& steps = m.planned[static_cast<int>(Purpose::decode)];
  BG_CHECK(steps.plan && static_cast<int64_t>(next.size()) == steps.B, "a step of", next.size(), "rows where there are",
           steps.plan ? steps.B : 0);
  const int64_t rows = steps.B;
  auto* const numbers = static_cast<int32_t*>(m.step_in.data());
  for (int64_t b = 0; b < rows; ++b) {
    const NextId& n = next[static_cast<size_t>(b)];
    BG_CHECK(n.position == -1 || (n.position >= 2 && n.position < steps.T && n.first >= 0 && n.first <= n.position),
             "a step of row", b, "at position", n.position, "seeing from", n.first, "of", steps.T);
    for (int64_t i = 0; i < Impl::kStepIds; ++i) {
      BG_CHECK(n.ids[i] >= 0 && n.ids[i] < m.config.vocab_size(), "a step of row", b, "holds id", n.ids[i],
               "outside the vocabulary 0 ..", m.config.vocab_size() - 1);
      numbers[b * Impl::kStepIds + i] = n.ids[i];
    }
    numbers[Impl::kStepIds * rows + b] = n.position;
    numbers[(Impl::kStepIds + 1) * rows + b] = n.first;
    numbers[(Impl::kStepIds + 2) * rows + b] = n.inject_end;
  }
  m.use_plan(Purpose::decode, rows, steps.T);
  m.backward_due = false;
  if (m.steps_done++ == 0) {
    m.enqueue_step(false);
  } else {
    if (!m.step_recording) m.step_recording = Recording(m.ctx, [&m] { m.enqueue_step(true); });
    m.step_recording.replay();
  }
  synchronise(m.ctx);
  return Tensor(m.step_out.data(), {rows, m.config.vocab_size()}, m.ctx.full_dtype(), Device::cpu);
}

void Model::set_directions(std::span<const double> directions) {
  Impl& m = *impl_;
  if (!m.jepa || (directions.empty() && m.directions_drawn)) return;
  if (directions.empty())
    m.jepa->set_directions(m.ctx, draw_directions(m.config.jepa_latent_dim, m.seed));
  else
    m.jepa->set_directions(m.ctx, directions);
  m.directions_drawn = directions.empty();  // given ones serve until the next call; the drawn ones are made again then
}

int64_t Model::prepare_training(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T) {
  impl_->prepare(Purpose::train, ids, B, T);
  return impl_->check_targets(targets, B, T, true);
}

int64_t Model::plan_number() const {
  return impl_->plan_number;
}

void Model::enqueue(const int32_t* ids, const int32_t* targets, int64_t scored, bool jepa_losses, Tensor jepa_weight,
                    double share, Tensor parts) {
  Impl& m = *impl_;
  enqueue_copy(m.ctx, m.ids.data(), ids, m.ids.size_bytes());
  enqueue_copy(m.ctx, m.targets.data(), targets, m.targets.size_bytes());
  m.enqueue_losses();
  enqueue_copy(m.ctx, parts.data(), m.parts.data(), m.parts.size_bytes());
  m.enqueue_gradients(share, scored, jepa_losses, jepa_weight);
}

Losses Model::read_losses(const double* parts, int64_t scored, double jepa_lambda) const {
  const Config& c = impl_->config;
  Losses out;
  out.ce = parts[0] / static_cast<double>(scored);
  out.jepa_pred = parts[1];
  out.jepa_sigreg = parts[2];
  out.latent = parts[3];
  out.total =
      out.ce + jepa_lambda * (out.jepa_pred + c.jepa_sigreg_weight * out.jepa_sigreg) + c.jepa_weight * out.latent;
  const std::pair<const char*, double> named[] = {
      {"ce", out.ce}, {"jepa_pred", out.jepa_pred}, {"jepa_sigreg", out.jepa_sigreg}, {"latent", out.latent}};
  for (const auto& [name, value] : named)
    if (!std::isfinite(value)) throw NumericsError(words("loss", name, "is", value));
  return out;
}

Losses Model::loss(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                   double jepa_lambda, std::span<const double> directions) {
  Impl& m = *impl_;
  BG_CHECK(std::isfinite(jepa_lambda), "jepa_lambda =", jepa_lambda, "is not finite");
  set_directions(directions);
  m.scored = prepare_training(ids, targets, B, T);
  m.copy_in(ids, m.ids);
  m.copy_in(targets, m.targets);
  m.enqueue_losses();
  const std::vector<double> parts = download(m.ctx, m.parts);
  const Losses out = read_losses(parts.data(), m.scored, jepa_lambda);
  m.lambda = jepa_lambda;
  m.backward_due = true;
  return out;
}

void Model::backward(double scale) {
  Impl& m = *impl_;
  BG_CHECK(m.backward_due, "backward() needs a loss() of its own just before");
  m.backward_due = false;
  upload(m.ctx, std::vector<double>{m.lambda}, m.constant(0));
  m.enqueue_gradients(scale, m.scored, m.lambda != 0, m.constant(0));
}

void Model::zero_gradients() {
  fill_zero(impl_->ctx, impl_->params.grads());
}

void Model::on_gradients(std::function<void(size_t first, size_t last)> ready) {
  impl_->ready = std::move(ready);
}

std::string Model::print_plan() const {
  return impl_->active ? impl_->active->print() : "no plan yet\n";
}

}  // namespace bg
