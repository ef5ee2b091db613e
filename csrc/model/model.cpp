#include "model/model.h"

#include <array>
#include <cmath>

#include "base/memory.h"
#include "kernels/residual.h"
#include "tensor/transfer.h"

namespace bg {
namespace {

const Config& validated(const Config& config) {
  config.validate();
  return config;
}

}  // namespace

struct Model::Impl {
  Config config;
  Ctx ctx;
  ParamTable params;
  std::unique_ptr<System> system;
  Pass pass;

  // What the whole step keeps; see reserve().
  Tensor ids, targets, nll, parts;

  struct Planned {
    int64_t B = 0, T = 0;
    std::unique_ptr<Plan> plan;
  };
  Planned planned[2];  // train, infer
  const Plan* active = nullptr;
  int64_t plan_number = 0;

  Buffer constants;  // rank 0, f64: the weight of the scheduled losses of loss(), and 1
  Tensor constant(int64_t i) const {
    return Tensor(constants.at(static_cast<size_t>(i) * 8), {}, DType::f64, ctx.device);
  }
  std::array<Tensor, kNumLosses> each_part() const {
    std::array<Tensor, kNumLosses> out;
    for (int64_t i = 0; i < kNumLosses; ++i)
      out[static_cast<size_t>(i)] = Tensor(static_cast<double*>(parts.data()) + i, {}, DType::f64, ctx.device);
    return out;
  }

  GradientsReady ready;
  int64_t scored = 0;
  double lambda = 0;
  bool backward_due = false;

  Impl(const Config& c, const Ctx& context, uint64_t seed)
      : config(validated(c)), ctx(context), system(make_system(config, seed)) {
    system->declare(params);
    params.allocate(ctx, seed);
    constants = Buffer(2 * sizeof(double), ctx.device);
    upload(ctx, std::vector<double>{1.0}, constant(1));
  }

  void check_ids(std::span<const int32_t> given, int64_t B, int64_t T, int64_t lowest, const char* what) const {
    BG_CHECK(B >= 1 && T >= 1 && static_cast<int64_t>(given.size()) == B * T, what, "must be (B,T) = (", B, ",", T,
             "), got", given.size(), "values");
    const int64_t V = config.vocab_size();
    for (size_t i = 0; i < given.size(); ++i)
      BG_CHECK(given[i] >= lowest && given[i] < V, what, "row", static_cast<int64_t>(i) / T, "position",
               static_cast<int64_t>(i) % T, "holds id", given[i], "outside the vocabulary 0 ..", V - 1);
  }

  // Makes or finds the plan for these sizes.
  void prepare(Purpose purpose, std::span<const int32_t> given, int64_t B, int64_t T) {
    backward_due = false;
    check_ids(given, B, T, 0, "ids");
    system->check_sizes(B, T, purpose == Purpose::train);
    Planned& p = planned[static_cast<int>(purpose)];
    if (p.plan && p.B == B && p.T == T) {
      use(*p.plan);
      return;
    }
    active = nullptr;
    p.plan.reset();  // first: two plans of one purpose need not fit in memory together
    auto plan = std::make_unique<Plan>(ctx, purpose);
    reserve(*plan, B, T);
    commit(*plan, words("activations of", B, "rows of", T, "ids"), [&](size_t bytes) {
      const auto rows = static_cast<int64_t>(0.98 * static_cast<double>(free_bytes(ctx)) / static_cast<double>(bytes) *
                                             static_cast<double>(B));
      return rows > 0 ? words("; about", rows, "rows would fit (micro_batch_ids =", rows * T, ")") : "";
    });
    p = {B, T, std::move(plan)};
    active = p.plan.get();
    ++plan_number;
    system->begin(ctx);
  }
  void reserve(Plan& plan, int64_t B, int64_t T) {
    plan.keep(ids, "ids", {B, T}, DType::i32);
    plan.keep(targets, "targets", {B, T}, DType::i32);
    plan.keep(nll, "nll", {B * T}, DType::f64);
    plan.keep(parts, "loss_parts", {kNumLosses}, DType::f64);
    system->reserve(plan, B, T);
  }
  void use(const Plan& plan) {
    if (active != &plan) plan.activate();
    active = &plan;
  }
  void commit(Plan& plan, const std::string& what, const std::function<std::string(size_t)>& hint) const {
    try {
      plan.commit();
    } catch (const SystemError& error) {
      const size_t bytes = plan.needed_bytes();
      throw SystemError(words(error.what(), "-", what, "take", static_cast<double>(bytes) / 1e9, "GB") +
                        (hint ? hint(bytes) : ""));
    }
  }
  void copy_in(std::span<const int32_t> given, Tensor to) const {
    copy_bytes(ctx, to.data(), to.device(), given.data(), Device::cpu, given.size_bytes());
  }

  // How many targets are scored.
  int64_t check_targets(std::span<const int32_t> given, int64_t B, int64_t T, bool training) const {
    check_ids(given, B, T, -1, "targets");
    int64_t count = 0;
    for (int32_t t : given) count += t >= 0;
    if (!training) return count;
    BG_CHECK(count > 0, "a loss needs at least one target; all", given.size(), "are -1");
    system->check_targets(given, B, T);
    return count;
  }

  void enqueue_losses() {
    clear_bytes(ctx, ctx.device, parts.data(), parts.size_bytes());
    system->losses(ctx, ids, targets, pass, nll, each_part());
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
Flops Model::flops(int64_t B, int64_t T) const {
  return impl_->system->flops(B, T, impl_->pass);
}

Tensor Model::logits(std::span<const int32_t> ids, int64_t B, int64_t T) {
  Impl& m = *impl_;
  m.prepare(Purpose::infer, ids, B, T);
  m.copy_in(ids, m.ids);
  return m.system->forward(m.ctx, m.ids, m.pass, {}).reshape({B, T, m.config.vocab_size()});
}

Tensor Model::logits(std::span<const int32_t> ids, const Decoding& decoding) {
  Impl& m = *impl_;
  m.prepare(Purpose::infer, ids, 1, static_cast<int64_t>(ids.size()));
  m.copy_in(ids, m.ids);
  return m.system->forward(m.ctx, m.ids, m.pass, decoding);
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
  m.system->forward(m.ctx, m.ids, m.pass, {});
  m.system->nll(m.ctx, m.targets, m.nll);
  copy_bytes(m.ctx, out.data(), Device::cpu, m.nll.data(), m.ctx.device, out.size_bytes());
}

System& Model::system() {
  return *impl_->system;
}

void Model::use(const Plan& plan) {
  impl_->backward_due = false;
  impl_->use(plan);
}

void Model::forget(const Plan& plan) {
  if (impl_->active == &plan) impl_->active = nullptr;
}

void Model::commit(Plan& plan, const std::string& what, const std::function<std::string(size_t)>& hint) const {
  impl_->active = nullptr;  // the plan's tensors point at its memory from here on
  impl_->commit(plan, what, hint);
}

void Model::set_pass(Pass pass) {
  impl_->backward_due = false;
  impl_->pass = pass;
}
Pass Model::pass() const {
  return impl_->pass;
}

void Model::set_directions(std::span<const double> directions) {
  impl_->system->set_directions(impl_->ctx, directions);
}

StreamLayout Model::streams(int64_t B, int64_t T) const {
  return StreamLayout({{"ids", B * T}, {"targets", B * T}});
}

int64_t Model::prepare_training(const MicroBatch& batch) {
  batch.check(streams(batch.B, batch.T));
  impl_->prepare(Purpose::train, batch.ids(), batch.B, batch.T);
  return impl_->check_targets(batch.targets(), batch.B, batch.T, true);
}

int64_t Model::plan_number() const {
  return impl_->plan_number;
}

void Model::enqueue(const int32_t* batch, int64_t scored, bool scheduled, Tensor scheduled_weight, double share,
                    Tensor parts) {
  Impl& m = *impl_;
  const StreamLayout layout = streams(m.ids.dim(0), m.ids.dim(1));
  const Tensor to[] = {m.ids, m.targets};
  for (size_t s = 0; s < std::size(to); ++s)
    enqueue_copy(m.ctx, to[s].data(), batch + layout.offset(0, s), to[s].size_bytes());
  m.enqueue_losses();
  enqueue_copy(m.ctx, parts.data(), m.parts.data(), m.parts.size_bytes());
  m.system->backward(m.ctx, m.ids, m.targets, {share, scored, scheduled, scheduled_weight, m.constant(1)}, m.ready);
}

Losses Model::loss(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                   double jepa_lambda, std::span<const double> directions) {
  Impl& m = *impl_;
  BG_CHECK(std::isfinite(jepa_lambda), "jepa_lambda =", jepa_lambda, "is not finite");
  set_directions(directions);
  m.prepare(Purpose::train, ids, B, T);
  m.scored = m.check_targets(targets, B, T, true);
  m.copy_in(ids, m.ids);
  m.copy_in(targets, m.targets);
  m.enqueue_losses();
  const std::vector<double> parts = download(m.ctx, m.parts);
  const Losses out = read_losses(m.config, parts, m.scored, jepa_lambda);
  m.lambda = jepa_lambda;
  m.backward_due = true;
  return out;
}

void Model::backward(double scale) {
  Impl& m = *impl_;
  BG_CHECK(m.backward_due, "backward() needs a loss() of its own just before");
  m.backward_due = false;
  upload(m.ctx, std::vector<double>{m.lambda}, m.constant(0));
  m.system->backward(m.ctx, m.ids, m.targets, {scale, m.scored, m.lambda != 0, m.constant(0), m.constant(1)}, m.ready);
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
