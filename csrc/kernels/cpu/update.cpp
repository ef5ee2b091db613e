// Element-wise optimiser loops on the CPU: plain loops that the compiler turns into vectors, one task per fixed block.
#include "kernels/update.h"

#include <algorithm>
#include <cmath>

namespace bg::cpu {
namespace {

// Runs f(lo, hi) over the blocks of 0..n-1.
template <class F>
void for_blocks(const Ctx& ctx, int64_t n, F&& f) {
  ctx.pool->parallel_for(update_blocks(n),
                         [&](int64_t i) { f(i * kUpdateBlock, std::min(n, (i + 1) * kUpdateBlock)); });
}

// Eight running sums: a fixed order that the compiler may use vectors for.
template <class T>
double squares(const T* x, int64_t n) {
  double sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) sum[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  for (; i < n; ++i) sum[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

template <class T>
T* or_null(const Tensor& t) {
  return t ? t.ptr<T>() : nullptr;
}

// The step itself is computed into registers first, the average follows while p is still in cache.
template <class T>
void average_block(T weight, const T* __restrict x, T* __restrict average, int64_t n) {
  for (int64_t i = 0; i < n; ++i) average[i] += weight * (x[i] - average[i]);
}

template <class T>
void adam_block(const AdamStep& s, T* __restrict p, const T* __restrict g, T* __restrict m, T* __restrict v,
                int64_t n) {
  const T keep = static_cast<T>(s.keep), scale = static_cast<T>(s.grad_scale), eps = static_cast<T>(s.eps);
  const T beta1 = static_cast<T>(s.beta1), rest1 = static_cast<T>(1 - s.beta1);
  const T beta2 = static_cast<T>(s.beta2), rest2 = static_cast<T>(1 - s.beta2);
  const T lr = static_cast<T>(s.lr / s.correction1), root = static_cast<T>(1 / std::sqrt(s.correction2));
  for (int64_t i = 0; i < n; ++i) {
    const T gi = scale * g[i];
    m[i] = beta1 * m[i] + rest1 * gi;
    v[i] = beta2 * v[i] + rest2 * gi * gi;
    const T divisor = std::sqrt(v[i]) * root + eps;
    const T safe = divisor > 0 ? divisor : T{1};  // v = 0 only where m = 0
    p[i] = keep * p[i] - lr * m[i] / safe;
  }
}

}  // namespace

void sum_of_squares(const Ctx& ctx, Tensor x, std::span<double> partial) {
  BG_FLOATS(x.dtype(), T, {
    const T* data = x.ptr<T>();
    for_blocks(ctx, x.numel(), [&](int64_t lo, int64_t hi) {
      partial[static_cast<size_t>(lo / kUpdateBlock)] = squares(data + lo, hi - lo);
    });
  });
}

void adam_step(const Ctx& ctx, const AdamStep& step, Tensor p, Tensor g, Tensor m, Tensor v, Tensor average) {
  BG_FLOATS(p.dtype(), T, {
    T* const value = p.ptr<T>();
    T* const mean = or_null<T>(average);
    for_blocks(ctx, p.numel(), [&](int64_t lo, int64_t hi) {
      adam_block<T>(step, value + lo, g.ptr<T>() + lo, m.ptr<T>() + lo, v.ptr<T>() + lo, hi - lo);
      if (mean != nullptr) average_block<T>(static_cast<T>(step.average_weight), value + lo, mean + lo, hi - lo);
    });
  });
}

void muon_momentum_step(const Ctx& ctx, double mu, double grad_scale, Tensor g, Tensor buf, Tensor u) {
  BG_FLOATS(g.dtype(), T, {
    for_blocks(ctx, g.numel(), [&](int64_t lo, int64_t hi) {
      const T* __restrict gi = g.ptr<T>();
      T* __restrict b = buf.ptr<T>();
      T* __restrict out = u.ptr<T>();
      const T decay = static_cast<T>(mu), scale = static_cast<T>(grad_scale);
      for (int64_t i = lo; i < hi; ++i) {
        const T scaled = scale * gi[i];
        b[i] = decay * b[i] + scaled;
        out[i] = scaled + decay * b[i];
      }
    });
  });
}

void decayed_step(const Ctx& ctx, double keep, double lr, Tensor o, Tensor p, double average_weight, Tensor average) {
  BG_FLOATS(p.dtype(), T, {
    T* const mean = or_null<T>(average);
    for_blocks(ctx, p.numel(), [&](int64_t lo, int64_t hi) {
      const T* __restrict oi = o.ptr<T>();
      T* __restrict value = p.ptr<T>();
      const T keep_ = static_cast<T>(keep), lr_ = static_cast<T>(lr);
      for (int64_t i = lo; i < hi; ++i) value[i] = keep_ * value[i] - lr_ * oi[i];
      if (mean != nullptr) average_block<T>(static_cast<T>(average_weight), value + lo, mean + lo, hi - lo);
    });
  });
}

void average_step(const Ctx& ctx, double weight, Tensor x, Tensor average) {
  BG_FLOATS(x.dtype(), T, {
    for_blocks(ctx, x.numel(), [&](int64_t lo, int64_t hi) {
      average_block<T>(static_cast<T>(weight), x.ptr<T>() + lo, average.ptr<T>() + lo, hi - lo);
    });
  });
}

}  // namespace bg::cpu
