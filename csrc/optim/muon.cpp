#include "optim/muon.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "kernels/update.h"
#include "optim/newton_schulz.h"

namespace bg {

std::vector<int> share_out(const std::vector<std::pair<int64_t, int64_t>>& shapes, int64_t world) {
  // Of an iteration: two products with the matrix and one of the squares.
  const auto cost = [&](size_t i) {
    const auto [rows, cols] = shapes[i];
    const double m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
    return m * m * (2 * n + m);
  };
  std::vector<size_t> order(shapes.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return cost(a) > cost(b); });
  std::vector<double> load(static_cast<size_t>(world), 0.0);
  std::vector<int> owner(shapes.size());
  for (const size_t i : order) {
    const auto lightest = std::min_element(load.begin(), load.end());
    owner[i] = static_cast<int>(lightest - load.begin());
    *lightest += cost(i);
  }
  return owner;
}

Muon::Muon(const Config& config, const Ctx& ctx, const ParamTable& params, Comm* comm) : ctx_(ctx), comm_(comm) {
  for (const ParamSpec& spec : params.specs()) {
    if (mover_of(spec.group) != Mover::muon || spec.shape.numel() == 0) continue;
    BG_CHECK(spec.shape.rank() >= 2, "Muon moves matrices, but", spec.name, "has shape", spec.shape.str());
    const int64_t rows = spec.shape[0], cols = spec.shape.numel() / rows;
    matrices_.push_back({&spec, rates_of(config, spec.group), rows, cols, true, 0});
    const int64_t update = (rows * cols + 15) / 16 * 16;  // u, beside what Newton-Schulz needs
    scratch_numel_ = std::max(scratch_numel_, update + newton_schulz_scratch(rows, cols));
  }
  std::stable_sort(matrices_.begin(), matrices_.end(),
                   [](const Matrix& a, const Matrix& b) { return a.numel() > b.numel(); });
  if (comm_ != nullptr) lay_out_updates();
  lanes_ = std::min<int64_t>(ctx.pool->size(), static_cast<int64_t>(matrices_.size()));
  scratch_ = Buffer(static_cast<size_t>(lanes_ * scratch_numel_) * size_of(ctx.dtype), ctx.device);
}

void Muon::lay_out_updates() {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (const Matrix& m : matrices_) shapes.emplace_back(m.rows, m.cols);
  const std::vector<int> owner = share_out(shapes, comm_->world());
  std::vector<int64_t> filled(static_cast<size_t>(comm_->world()), 0);
  for (size_t i = 0; i < matrices_.size(); ++i) {
    matrices_[i].own = owner[i] == comm_->rank();
    matrices_[i].slot = filled[static_cast<size_t>(owner[i])];
    filled[static_cast<size_t>(owner[i])] += (matrices_[i].numel() + 15) / 16 * 16;
  }
  share_numel_ = *std::max_element(filled.begin(), filled.end());
  for (size_t i = 0; i < matrices_.size(); ++i) matrices_[i].slot += owner[i] * share_numel_;
  updates_ = Buffer(static_cast<size_t>(comm_->world() * share_numel_) * size_of(ctx_.dtype), ctx_.device);
}

Tensor Muon::updates() const {
  return Tensor(updates_.data(), {comm_->world() * share_numel_}, ctx_.dtype, ctx_.device);
}

namespace {
Tensor part_of(const ParamSpec& spec, Tensor arena) {
  return arena ? arena.slice(0, spec.offset, spec.offset + spec.shape.numel()) : arena;
}
}  // namespace

void Muon::direct(const MuonStep& how, const Matrix& matrix, const ParamTable& params, Tensor momentum, Tensor u,
                  Tensor scratch) const {
  const ParamSpec& spec = *matrix.spec;
  muon_momentum_step(ctx_, how.momentum, how.grad_scale, part_of(spec, params.grads()), part_of(spec, momentum), u);
  if (!matrix.own) return;
  const Tensor square = u.reshape({matrix.rows, matrix.cols});
  newton_schulz(ctx_, square, how.newton_schulz_steps, scratch, square);
}

void Muon::apply(const MuonStep& how, const Matrix& matrix, const ParamTable& params, Tensor average, Tensor u) const {
  const ParamSpec& spec = *matrix.spec;
  const double ratio = static_cast<double>(matrix.rows) / static_cast<double>(matrix.cols);
  const Tensor mean = spec.averaging == Averaging::on ? part_of(spec, average) : Tensor();
  const double lr = matrix.rates.lr * how.lr_factor;
  decayed_step(ctx_, 1 - lr * matrix.rates.weight_decay, lr * std::sqrt(std::max(1.0, ratio)), u,
               part_of(spec, params.values()), how.average_weight, mean);
}

std::vector<std::pair<int64_t, int64_t>> Muon::moved() const {
  std::vector<std::pair<int64_t, int64_t>> out;
  for (const Matrix& m : matrices_) out.emplace_back(m.spec->offset, m.spec->offset + m.numel());
  return out;
}

void Muon::step(const MuonStep& how, const ParamTable& params, Tensor momentum, Tensor average) {
  std::atomic<size_t> next{0};
  ctx_.pool->parallel_for(lanes_, [&](int64_t lane) {
    const Tensor all(scratch_.data(), {lanes_ * scratch_numel_}, ctx_.dtype, ctx_.device);
    const Tensor mine = all.slice(0, lane * scratch_numel_, (lane + 1) * scratch_numel_);
    for (size_t i; (i = next.fetch_add(1)) < matrices_.size();) {
      const Matrix& m = matrices_[i];
      const int64_t n = m.numel();
      const bool keeps = comm_ != nullptr && m.own;  // in its place among all updates
      const Tensor u = keeps ? updates().slice(0, m.slot, m.slot + n) : mine.slice(0, 0, n);
      direct(how, m, params, momentum, u, mine.slice(0, (n + 15) / 16 * 16, mine.dim(0)));
      if (comm_ == nullptr) apply(how, m, params, average, u);
    }
  });
  if (comm_ == nullptr || matrices_.empty()) return;
  comm_->all_gather(updates());
  comm_->join();
  ctx_.pool->parallel_for(static_cast<int64_t>(matrices_.size()), [&](int64_t i) {
    const Matrix& m = matrices_[static_cast<size_t>(i)];
    apply(how, m, params, average, updates().slice(0, m.slot, m.slot + m.numel()));
  });
}

}  // namespace bg
