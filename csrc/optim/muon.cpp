#include "optim/muon.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "kernels/update.h"
#include "optim/newton_schulz.h"

namespace bg {

Muon::Muon(const Ctx& ctx, const ParamTable& params) : ctx_(ctx) {
  for (const ParamSpec& spec : params.specs()) {
    if (spec.group != Group::matrix || spec.shape.numel() == 0) continue;
    BG_CHECK(spec.shape.rank() >= 2, "Muon moves matrices, but", spec.name, "has shape", spec.shape.str());
    const int64_t rows = spec.shape[0], cols = spec.shape.numel() / rows;
    matrices_.push_back({&spec, rows, cols});
    const int64_t update = (rows * cols + 15) / 16 * 16;  // u, beside what Newton-Schulz needs
    scratch_numel_ = std::max(scratch_numel_, update + newton_schulz_scratch(rows, cols));
  }
  std::stable_sort(matrices_.begin(), matrices_.end(),
                   [](const Matrix& a, const Matrix& b) { return a.rows * a.cols > b.rows * b.cols; });
  lanes_ = std::min<int64_t>(ctx.pool->size(), static_cast<int64_t>(matrices_.size()));
  scratch_ = Buffer(static_cast<size_t>(lanes_ * scratch_numel_) * size_of(ctx.dtype), ctx.device);
}

void Muon::move(const MuonStep& how, const Matrix& matrix, const ParamTable& params, Tensor momentum, Tensor average,
                Tensor scratch) const {
  const int64_t n = matrix.rows * matrix.cols;
  const auto flat = [&](Tensor arena) {
    return arena ? arena.slice(0, matrix.spec->offset, matrix.spec->offset + n) : arena;
  };
  const Tensor u = scratch.slice(0, 0, n), rest = scratch.slice(0, (n + 15) / 16 * 16, scratch.dim(0));
  muon_momentum_step(ctx_, how.momentum, how.grad_scale, flat(params.grads()), flat(momentum), u);
  const Tensor square = u.reshape({matrix.rows, matrix.cols});
  newton_schulz(ctx_, square, how.newton_schulz_steps, rest, square);
  const double ratio = static_cast<double>(matrix.rows) / static_cast<double>(matrix.cols);
  const Tensor mean = matrix.spec->averaging == Averaging::on ? flat(average) : Tensor();
  decayed_step(ctx_, 1 - how.lr * how.weight_decay, how.lr * std::sqrt(std::max(1.0, ratio)), u, flat(params.values()),
               how.average_weight, mean);
}

void Muon::step(const MuonStep& how, const ParamTable& params, Tensor momentum, Tensor average) {
  std::atomic<size_t> next{0};
  ctx_.pool->parallel_for(lanes_, [&](int64_t lane) {
    const Tensor all(scratch_.data(), {lanes_ * scratch_numel_}, ctx_.dtype, ctx_.device);
    const Tensor mine = all.slice(0, lane * scratch_numel_, (lane + 1) * scratch_numel_);
    for (size_t i; (i = next.fetch_add(1)) < matrices_.size();)
      move(how, matrices_[i], params, momentum, average, mine);
  });
}

}  // namespace bg
