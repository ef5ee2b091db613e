#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>

#include "base/vocab.h"
#include "kernels/fingerprint.h"
#include "optim/clip.h"
#include "tensor/transfer.h"

namespace bg {
namespace {

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::shared_ptr<Model> present(std::shared_ptr<Model> model) {
  BG_CHECK(model != nullptr, "trainer without a model");
  return model;
}

// The first tensor whose values (or gradients) hold NaN or infinity, in order of declaration; -1 when none does.
int64_t damaged(const Ctx& ctx, const ParamTable& params, Tensor Param::*which) {
  for (size_t i = 0; i < params.specs().size(); ++i) {
    const std::vector<double> values = download(ctx, params.specs()[i].handle->*which);
    if (!std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); }))
      return static_cast<int64_t>(i);
  }
  return -1;
}

}  // namespace

Trainer::Trainer(const Config& config, std::shared_ptr<Model> model, std::shared_ptr<Loader> loader,
                 std::function<double()> now, std::shared_ptr<Comm> comm)
    : config_(config),
      comm_(comm && comm->world() > 1 ? std::move(comm) : nullptr),
      model_(present(std::move(model))),
      loader_(std::move(loader)),
      now_(now ? std::move(now) : steady_seconds),
      averages_(config, model_->ctx(), model_->params()),
      optimizer_(config, model_->ctx(), model_->params(), &averages_, comm_.get()) {
  config_.validate();
  if (optimizer_.fused() != nullptr)
    device_step_ = std::make_unique<DeviceStep>(*model_, optimizer_, comm_);
  else if (comm_)
    buckets_ = std::make_unique<Buckets>(*comm_, model_->params());
  constexpr Section kModel[] = {Section::model};
  BG_CHECK(config_.text(kModel, false) == model_->config().text(kModel, false),
           "the model was made with model options that differ from the trainer's config");
  BG_CHECK(!loader_ || (loader_->options().rank == (comm_ ? comm_->rank() : 0) && loader_->options().world == world()),
           "the loader belongs to rank", loader_->options().rank, "of", loader_->options().world);
  share_state();
}

Trainer::~Trainer() {
  model_->on_gradients({});
}

double Trainer::elapsed() const {
  if (!running_) return progress_.elapsed_s;
  const double now = now_();
  if (now < seen_) started_ -= seen_ - now;  // a clock that goes back (some virtual machines' do) takes no time away
  seen_ = now;
  return progress_.elapsed_s + (now - started_);
}

Clock Trainer::clock() const {
  if (agreed_) return *agreed_;
  const double elapsed_s = elapsed();
  const double mean_s =
      progress_.step < 2 ? 0 : (elapsed_s - progress_.first_step_s) / static_cast<double>(progress_.step - 1);
  return {elapsed_s, mean_s, times_.predicted_s()};
}

bool Trainer::done() const {
  const bool over = run_is_over(config_, progress_.step, clock());
  if (!over) granted_ = progress_.step;
  return over;
}

void Trainer::pause() {
  progress_.elapsed_s = elapsed();
  running_ = false;
}

void Trainer::count(std::span<const int32_t> targets, StepStats& stats) const {
  stats.ids += std::count_if(targets.begin(), targets.end(), [](int32_t id) { return id >= 0; });
  stats.bytes += config_.vocab().count_bytes(targets.data(), static_cast<int64_t>(targets.size()));
}

std::vector<double> Trainer::gather(std::span<const double> own) {
  if (!comm_) return {own.begin(), own.end()};
  const Ctx& ctx = model_->ctx();
  const auto n = static_cast<int64_t>(own.size());
  const Buffer memory(static_cast<size_t>(world() * n) * sizeof(double), ctx.device);
  const Tensor all(memory.data(), {world() * n}, DType::f64, ctx.device);
  upload(ctx, own, all.slice(0, comm_->rank() * n, (comm_->rank() + 1) * n));
  comm_->all_gather(all);
  comm_->join();
  return download(ctx, all);
}

void Trainer::measure(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
                      StepStats& stats) {
  if (device_step_) {
    model_->set_directions(directions);
    const DeviceStep::Result result =
        device_step_->run({stats.step, stats.lr_factor, stats.muon_momentum, stats.jepa_lambda}, micro_batches, fetch);
    const double share = 1.0 / static_cast<double>(result.losses.size());
    for (const Losses& losses : result.losses) stats.losses.add(losses, share);
    stats.ids = result.ids, stats.bytes = result.bytes;
    stats.grad_norm = result.norm;
  } else {
    measure_on_cpu(micro_batches, fetch, directions, stats);
  }
  if (!std::isfinite(stats.grad_norm)) refuse(micro_batches, fetch, directions, stats.jepa_lambda);
}

void Trainer::measure_on_cpu(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
                             StepStats& stats) {
  const double share = 1.0 / static_cast<double>(micro_batches * world());
  model_->zero_gradients();
  try {
    for (int64_t micro = 0; micro < micro_batches; ++micro) {
      const MicroBatch batch = fetch(micro);
      count(batch.targets(), stats);
      const Losses losses = model_->loss(batch.ids(), batch.targets(), batch.B, batch.T, stats.jepa_lambda, directions);
      if (buckets_ && micro == micro_batches - 1)
        model_->on_gradients([this](size_t first, size_t last) { buckets_->ready(first, last); });
      model_->backward(share);
      stats.losses.add(losses, share);
    }
  } catch (const NumericsError&) {
    if (!comm_) throw;
    // The others wait for this rank's gradients: they get a NaN, which tells them.
    const Tensor first = model_->params().grads().slice(0, 0, 1);
    upload(model_->ctx(), std::vector<double>{std::numeric_limits<double>::quiet_NaN()}, first);
  }
  model_->on_gradients({});
  if (buckets_) {
    buckets_->finish();
    std::vector<double> own;
    for (int64_t i = 0; i < kNumLosses; ++i) own.push_back(stats.losses[i]);
    own.insert(own.end(), {stats.losses.total, static_cast<double>(stats.ids), static_cast<double>(stats.bytes)});
    std::vector<double> sums(own.size());
    const std::vector<double> all = gather(own);
    for (size_t i = 0; i < all.size(); ++i) sums[i % own.size()] += all[i];
    const double* sum = sums.data();
    for (int64_t i = 0; i < kNumLosses; ++i) stats.losses[i] = *sum++;
    stats.losses.total = *sum++;
    stats.ids = static_cast<int64_t>(*sum++), stats.bytes = static_cast<int64_t>(*sum++);
  }
  stats.grad_norm = optimizer_.gradient_norm(comm_ == nullptr);
}

void Trainer::refuse(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions,
                     double lambda) {
  const Ctx& ctx = model_->ctx();
  ParamTable& params = model_->params();
  if (!comm_) refuse_gradient(ctx, params);
  // The sum has overwritten each rank's own gradients: compute them again, without the others.
  std::string reason;
  double culprit = -1;  // tensor; -2: a loss
  try {
    model_->zero_gradients();
    for (int64_t micro = 0; micro < micro_batches; ++micro) {
      const MicroBatch batch = fetch(micro);
      model_->loss(batch.ids(), batch.targets(), batch.B, batch.T, lambda, directions);
      model_->backward(1.0 / static_cast<double>(micro_batches * world()));
    }
    culprit = static_cast<double>(damaged(ctx, params, &Param::grad));
    if (culprit >= 0) refuse_gradient(ctx, params);
  } catch (const NumericsError& error) {
    if (culprit < 0) culprit = -2;
    reason = error.what();
  }
  const std::vector<double> all = gather(std::vector<double>{culprit});
  if (!reason.empty()) throw NumericsError("rank " + std::to_string(comm_->rank()) + ": " + reason);
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r] == -1) continue;
    const std::string what = all[r] < 0 ? "a loss" : "gradient of " + params.specs()[static_cast<size_t>(all[r])].name;
    throw NumericsError("rank " + std::to_string(r) + ": " + what + " is not finite");
  }
  throw NumericsError("the norm of the gradients' sum over all ranks overflows; each rank's own is finite");
}

StepStats Trainer::run(int64_t micro_batches, const FetchMicroBatch& fetch, std::span<const double> directions) {
  const int64_t n = progress_.step;
  BG_CHECK(n < config_.iterations, "the run is over: all", config_.iterations, "iterations are done");
  if (n == 0) averages_.start(model_->params());  // the weights may have been loaded after construction
  if (!running_) started_ = seen_ = now_(), running_ = true;
  const double began_s = elapsed();
  const Clock clock = this->clock();
  BG_CHECK(config_.train_budget_s <= 0 || !comm_ || agreed_,
           "ranks with a budget must agree() on the clock of each step");
  // The machine may stall between done() and here; the caller was told to go on, and does.
  BG_CHECK(config_.train_budget_s <= 0 || n == 0 || granted_ == n || clock.elapsed_s < config_.train_budget_s,
           "the run is over: its budget is", config_.train_budget_s, "s, and its clock shows", clock.elapsed_s);
  StepStats stats;
  stats.step = n;
  stats.lr_factor = lr_factor(config_, n, clock);
  stats.muon_momentum = muon_momentum(config_, n);
  stats.jepa_lambda = jepa_lambda(config_, n, clock);
  model_->set_pass({revisits(config_, n, clock)});
  const auto marked = [&](int64_t micro) {
    try {
      const MicroBatch batch = fetch(micro);
      ++marks_;
      return batch;
    } catch (...) {
      whole_ = true;  // all batches are fetched before anything moves
      throw;
    }
  };
  ++marks_;
  whole_ = device_step_ == nullptr;  // on a device measure() moves the weights
  try {
    measure(micro_batches, marked, directions, stats);
  } catch (const NumericsError& error) {
    whole_ = true;
    const int64_t culprit = damaged(model_->ctx(), model_->params(), &Param::value);
    const std::string more =
        culprit < 0 ? "" : "; " + model_->params().specs()[static_cast<size_t>(culprit)].name + " holds it already";
    throw NumericsError(words("step", n, ":", error.what()) + more);
  }
  whole_ = false;
  if (!device_step_) optimizer_.step(n, stats.grad_norm, stats.lr_factor, stats.muon_momentum, averages_);
  if (takes_snapshot(config_, n, clock)) averages_.snapshot(model_->params());
  ++progress_.step;
  whole_ = true;
  ++marks_;
  progress_.bytes += stats.bytes;
  agreed_.reset();
  stats.elapsed_s = elapsed();
  stats.seconds = stats.elapsed_s - began_s;
  times_.add(stats.seconds);
  if (n == 0) progress_.first_step_s = stats.elapsed_s;
  return stats;
}

StepStats Trainer::step() {
  BG_CHECK(loader_ != nullptr, "this trainer was made without data; use step_on");
  const auto fetch = [&](int64_t micro) {
    const Batch& batch = loader_->get(progress_.step, micro);
    return MicroBatch{batch.B, batch.T, {batch.x, batch.y}};
  };
  return run(loader_->options().micro_batches, fetch, {});
}

StepStats Trainer::step_on(std::span<const int32_t> ids, std::span<const int32_t> targets, int64_t B, int64_t T,
                           int64_t micro_batches, std::span<const double> directions) {
  BG_CHECK(micro_batches >= 1 && B >= 1 && B % micro_batches == 0, B, "rows cannot be cut into", micro_batches,
           "micro-batches");
  BG_CHECK(static_cast<int64_t>(ids.size()) == B * T && static_cast<int64_t>(targets.size()) == B * T,
           "ids and targets", "have", ids.size(), "and", targets.size(), "elements, expected", B * T);
  const int64_t rows = B / micro_batches;
  const auto fetch = [&](int64_t micro) {
    const size_t first = static_cast<size_t>(micro * rows * T), length = static_cast<size_t>(rows * T);
    return MicroBatch{rows, T, {ids.subspan(first, length), targets.subspan(first, length)}};
  };
  return run(micro_batches, fetch, directions);
}

Progress Trainer::progress() const {
  Progress p = progress_;
  p.snapshots = averages_.snapshots();
  p.elapsed_s = elapsed();
  p.longest_step_s = times_.longest_s();
  return p;
}

std::vector<Trainer::StateTensor> Trainer::state() const {
  std::vector<StateTensor> out;
  const ParamTable& params = model_->params();
  const Tensor ema = averages_.ema(), swa = averages_.swa(), first = optimizer_.first_moments();
  for (const ParamSpec& spec : params.specs())
    out.push_back({"weights/" + spec.name, ParamTable::view(spec, params.values())});
  for (const ParamSpec& spec : params.specs()) out.push_back({"first/" + spec.name, ParamTable::view(spec, first)});
  for (const ParamSpec& spec : params.specs()) {
    if (mover_of(spec.group) == Mover::muon) continue;  // has no second moment
    const int64_t lo = spec.offset - optimizer_.second_offset();
    out.push_back(
        {"second/" + spec.name, optimizer_.second_moments().slice(0, lo, lo + spec.shape.numel()).reshape(spec.shape)});
  }
  for (const ParamSpec& spec : params.specs())
    if (ema && spec.averaging == Averaging::on) out.push_back({"ema/" + spec.name, ParamTable::view(spec, ema)});
  for (const ParamSpec& spec : params.specs())
    if (swa && spec.averaging == Averaging::on) out.push_back({"swa/" + spec.name, ParamTable::view(spec, swa)});
  return out;
}

void Trainer::share_state() {
  if (!comm_) return;
  const ParamTable& params = model_->params();
  for (const Tensor& arena :
       {params.values(), optimizer_.first_moments(), optimizer_.second_moments(), averages_.ema(), averages_.swa()})
    if (arena && arena.numel() > 0) comm_->broadcast(arena);
  comm_->join();
  model_->params().refresh_operands(model_->ctx());
  synchronise(model_->ctx());
}

std::vector<std::pair<std::string, uint64_t>> Trainer::fingerprints() const {
  std::vector<Tensor> tensors;
  std::vector<std::pair<std::string, uint64_t>> out;
  for (const StateTensor& s : state()) {
    tensors.push_back(s.tensor.reshape({s.tensor.numel()}));
    out.emplace_back(s.name, 0);
  }
  const std::vector<uint64_t> found = bg::fingerprints(model_->ctx(), tensors);
  for (size_t i = 0; i < out.size(); ++i) out[i].second = found[i];
  return out;
}

void Trainer::check(const Progress& p) const {
  BG_CHECK(p.step >= 0 && p.step <= config_.iterations, "step", p.step, "of", config_.iterations);
  BG_CHECK(p.snapshots >= 0 && p.snapshots <= p.step, "snapshots", p.snapshots, "after", p.step, "steps");
  BG_CHECK(p.first_step_s >= 0 && p.first_step_s <= p.elapsed_s, "first_step_s =", p.first_step_s,
           "of elapsed_s =", p.elapsed_s);
  BG_CHECK(p.bytes >= 0 && p.elapsed_s >= 0 && p.longest_step_s >= 0 && std::isfinite(p.elapsed_s + p.longest_step_s),
           "bytes, elapsed_s and longest_step_s must be numbers of at least 0");
}

void Trainer::restore(const Progress& p) {
  check(p);
  model_->params().refresh_operands(model_->ctx());
  progress_ = p;
  whole_ = true;
  averages_.set_snapshots(p.snapshots);
  running_ = false;
  times_ = StepTimes();
  if (p.step > 0 && p.longest_step_s > 0) times_.add(p.longest_step_s);
}

}  // namespace bg
