#include "model/model.h"

#include <cmath>

#include "base/random.h"
#include "kernels/latent_loss.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/residual.h"
#include "model/head.h"
#include "model/input.h"
#include "model/jepa.h"
#include "model/trunk.h"

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
  Tensor ids, targets, nll, ce_sum, jepa_pred, jepa_sigreg, latent_loss, dx;
  Positions positions;

  struct Planned {
    int64_t B = 0, T = 0;
    std::unique_ptr<Plan> plan;
  };
  Planned planned[2];  // by Purpose
  const Plan* active = nullptr;

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
  }

  void reserve(Plan& plan, int64_t B, int64_t T) {
    const int64_t K = config.patch_size, rotary = config.rope_dims == 0 ? config.head_dim() : config.rope_dims;
    plan.keep(ids, "ids", {B, T}, DType::i32);
    plan.keep(targets, "targets", {B, T}, DType::i32);
    plan.keep(nll, "nll", {B * T}, DType::f64);
    plan.keep(ce_sum, "ce_sum", {}, DType::f64);
    plan.keep(jepa_pred, "jepa_pred", {}, DType::f64);
    plan.keep(jepa_sigreg, "jepa_sigreg", {}, DType::f64);
    plan.keep(latent_loss, "latent_loss", {}, DType::f64);
    plan.keep(positions.rope, "rope", {T / K, rotary});
    if (config.doc_mask) plan.keep(positions.doc_start, "doc_start", {B, T}, DType::i32);
    if (plan.training()) plan.keep(dx, "dx", {B * (T / K), config.model_dim});
    input.reserve(plan, B, T);
    trunk.reserve(plan, {B, T / K});
    if (jepa) jepa->reserve(plan, B, T);
    output.reserve(plan, B, T);
    if (latent) latent->reserve(plan, B, T);
  }

  void check_ids(std::span<const int32_t> given, int64_t B, int64_t T, int64_t lowest, const char* what) const {
    BG_CHECK(B >= 1 && T >= 1 && static_cast<int64_t>(given.size()) == B * T, what, "must be (B,T) = (", B, ",", T,
             "), got", given.size(), "values");
    for (size_t i = 0; i < given.size(); ++i)
      BG_CHECK(given[i] >= lowest && given[i] < config.vocab_size(), what, "row", static_cast<int64_t>(i) / T,
               "position", static_cast<int64_t>(i) % T, "holds id", given[i], "outside the vocabulary 0 ..",
               config.vocab_size() - 1);
  }

  // Makes or finds the plan for these sizes, and copies the ids in.
  void prepare(Purpose purpose, std::span<const int32_t> given, int64_t B, int64_t T) {
    backward_due = false;
    check_ids(given, B, T, 0, "ids");
    BG_CHECK(T % config.patch_size == 0, "T =", T, "is no multiple of patch_size =", config.patch_size);
    BG_CHECK(purpose == Purpose::infer || !latent || T > config.jepa_pred_k, "T =", T,
             "must exceed jepa_pred_k =", config.jepa_pred_k);
    Planned& p = planned[static_cast<int>(purpose)];
    if (!p.plan || p.B != B || p.T != T) {
      active = nullptr;
      p.plan.reset();  // first: two plans of one purpose need not fit in memory together
      auto plan = std::make_unique<Plan>(ctx, purpose);
      reserve(*plan, B, T);
      plan->commit();
      p = {B, T, std::move(plan)};
      active = p.plan.get();
      rope_table(ctx, config.rope_base, config.rope_train_len, positions.rope);
    } else if (active != p.plan.get()) {
      p.plan->activate();
      active = p.plan.get();
    }
    std::copy(given.begin(), given.end(), ids.ptr<int32_t>());
  }

  Tensor forward(bool losses) {
    if (config.doc_mask) document_starts(ctx, ids, static_cast<int32_t>(config.bos_id()), positions.doc_start);
    x0 = input.forward(ctx, ids);
    x = trunk.forward(ctx, x0, positions);
    if (jepa) jepa->forward(ctx, x.reshape({ids.dim(0), ids.dim(1), config.model_dim}), losses, jepa_pred, jepa_sigreg);
    return output.forward(ctx, x);
  }

  // Targets, and for the latent head the ids of target[t + K].
  void set_targets(std::span<const int32_t> given, int64_t B, int64_t T) {
    check_ids(given, B, T, -1, "targets");
    std::copy(given.begin(), given.end(), targets.ptr<int32_t>());
    scored = 0;
    for (int32_t t : given) scored += t >= 0;
  }
  void set_ahead(std::span<const int32_t> given, int64_t B, int64_t T) {
    const int64_t K = config.jepa_pred_k;
    int32_t* out = latent->ahead().ptr<int32_t>();
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = K; t < T; ++t) {
        const int32_t id = given[b * T + t];
        BG_CHECK(id >= 0, "the latent head needs every target, but row", b, "position", t, "has none");
        *out++ = id;
      }
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
  return impl_->forward(false).reshape({B, T, impl_->config.vocab_size()});
}

void Model::nll(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                std::span<double> out) {
  Impl& m = *impl_;
  BG_CHECK(out.size() == ids.size(), "nll of", ids.size(), "ids into", out.size(), "values");
  m.prepare(Purpose::infer, ids, B, T);
  m.set_targets(targets, B, T);
  m.forward(false);
  m.output.nll(m.ctx, m.targets, m.nll);
  const double* nll = m.nll.ptr<double>();
  std::copy(nll, nll + out.size(), out.begin());
}

Losses Model::loss(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                   double jepa_lambda, std::span<const double> directions) {
  Impl& m = *impl_;
  BG_CHECK(std::isfinite(jepa_lambda), "jepa_lambda =", jepa_lambda, "is not finite");
  if (m.jepa && (!directions.empty() || !m.directions_drawn)) {
    if (directions.empty())
      m.jepa->set_directions(m.ctx, draw_directions(m.config.jepa_latent_dim, m.seed));
    else
      m.jepa->set_directions(m.ctx, directions);
    m.directions_drawn = directions.empty();  // given ones serve one call; the drawn ones are made again after it
  }
  m.prepare(Purpose::train, ids, B, T);
  m.set_targets(targets, B, T);
  BG_CHECK(m.scored > 0, "a loss needs at least one target; all", targets.size(), "are -1");
  if (m.latent) m.set_ahead(targets, B, T);
  *m.jepa_pred.ptr<double>() = *m.jepa_sigreg.ptr<double>() = *m.latent_loss.ptr<double>() = 0;
  m.forward(true);
  m.output.nll(m.ctx, m.targets, m.nll);
  sum_f64(m.ctx, m.nll, m.ce_sum);
  if (m.latent) m.latent->forward(m.ctx, m.output.normed(), m.latent_loss);

  Losses out;
  out.ce = *m.ce_sum.ptr<double>() / static_cast<double>(m.scored);
  out.jepa_pred = *m.jepa_pred.ptr<double>();
  out.jepa_sigreg = *m.jepa_sigreg.ptr<double>();
  out.latent = *m.latent_loss.ptr<double>();
  out.total = out.ce + jepa_lambda * (out.jepa_pred + m.config.jepa_sigreg_weight * out.jepa_sigreg) +
              m.config.jepa_weight * out.latent;
  const std::pair<const char*, double> parts[] = {
      {"ce", out.ce}, {"jepa_pred", out.jepa_pred}, {"jepa_sigreg", out.jepa_sigreg}, {"latent", out.latent}};
  for (const auto& [name, value] : parts)
    if (!std::isfinite(value)) throw NumericsError(words("loss", name, "is", value));
  m.lambda = jepa_lambda;
  m.backward_due = true;
  return out;
}

void Model::backward(double scale) {
  Impl& m = *impl_;
  BG_CHECK(m.backward_due, "backward() needs a loss() of its own just before");
  m.backward_due = false;
  m.output.backward_logits(m.ctx, m.targets, scale / static_cast<double>(m.scored), m.dx);
  if (m.latent) m.latent->backward(m.ctx, m.output.normed(), scale * m.config.jepa_weight, m.dx);
  m.output.backward_norm(m.ctx, m.x, m.dx);
  if (m.jepa) m.jepa->backward(m.ctx, m.dx.reshape({m.ids.dim(0), m.ids.dim(1), m.config.model_dim}), scale * m.lambda);
  m.trunk.backward(m.ctx, m.x0, m.positions, m.dx);
  m.input.backward(m.ctx, m.ids, m.dx);
}

void Model::zero_gradients() {
  fill_zero(impl_->ctx, impl_->params.grads());
}

std::string Model::print_plan() const {
  return impl_->active ? impl_->active->print() : "no plan yet\n";
}

}  // namespace bg
