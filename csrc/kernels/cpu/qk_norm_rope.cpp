#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/qk_norm_rope.cpp"
#include "kernels/qk_norm_rope.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void table_of(const Ctx& ctx, double base, int64_t train_len, Tensor table) {
  const int64_t length = table.dim(0), r = table.dim(1), half = r / 2;
  if (length > train_len)
    base *= std::pow(static_cast<double>(length) / static_cast<double>(train_len),
                     static_cast<double>(r) / static_cast<double>(r - 2));
  T* p = table.ptr<T>();
  for_rows(ctx, length, [=](int64_t t) {
    for (int64_t j = 0; j < half; ++j) {
      const double angle =
          static_cast<double>(t) * std::pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(r));
      p[t * r + j] = static_cast<T>(std::cos(angle));
      p[t * r + half + j] = static_cast<T>(std::sin(angle));
    }
  });
}

// One head: out = gain * rope(x * rstd).
template <class T>
void head_forward(const T* x, const T* cs, int64_t d, int64_t r, T factor, T* out) {
  const int64_t half = r / 2;
  for (int64_t j = 0; j < half; ++j) {
    const T a = factor * x[j], b = factor * x[half + j];
    out[j] = a * cs[j] + b * cs[half + j];
    out[half + j] = b * cs[j] - a * cs[half + j];
  }
  for (int64_t j = r; j < d; ++j) out[j] = factor * x[j];
}

// One head: g becomes the gradient before the rotation, dx that before the norm; g has the gain in it already.
template <class T>
void head_backward(const T* x, const T* cs, const T* g, int64_t d, int64_t r, T gain, T rstd, T* dx) {
  const int64_t half = r / 2;
  for (int64_t j = 0; j < half; ++j) {
    dx[j] = gain * (g[j] * cs[j] - g[half + j] * cs[half + j]);
    dx[half + j] = gain * (g[j] * cs[half + j] + g[half + j] * cs[j]);
  }
  for (int64_t j = r; j < d; ++j) dx[j] = gain * g[j];
  const T along = rstd * rstd * dot(x, dx, d) / static_cast<T>(d);
  for (int64_t j = 0; j < d; ++j) dx[j] = rstd * (dx[j] - along * x[j]);
}

template <class T>
void forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k, Tensor rstd) {
  const int64_t L = qkv.dim(1), W = qkv.dim(2), H = q.dim(2), G = k.dim(2), d = q.dim(3), r = rope.dim(1);
  const T *in = qkv.ptr<T>(), *pg = gain.ptr<T>(), *cs = rope.ptr<T>();
  T *pq = q.ptr<T>(), *pk = k.ptr<T>(), *pr = rstd.ptr<T>();
  for_rows(ctx, qkv.dim(0) * L, [=](int64_t n) {
    for (int64_t h = 0; h < H + G; ++h) {
      const T* x = in + n * W + h * d;
      const T s = 1 / std::sqrt(dot(x, x, d) / static_cast<T>(d) + static_cast<T>(eps));
      pr[n * (H + G) + h] = s;
      T* out = h < H ? pq + (n * H + h) * d : pk + (n * G + h - H) * d;
      head_forward(x, cs + n % L * r, d, r, h < H ? s * pg[h] : s, out);
    }
  });
}

template <class T>
void backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk, Tensor dqkv,
              Tensor dgain) {
  const int64_t L = qkv.dim(1), N = qkv.dim(0) * L, W = qkv.dim(2), H = dq.dim(2), G = dk.dim(2), d = dq.dim(3),
                r = rope.dim(1);
  const T *in = qkv.ptr<T>(), *pg = gain.ptr<T>(), *cs = rope.ptr<T>(), *pr = rstd.ptr<T>(), *gq = dq.ptr<T>(),
          *gk = dk.ptr<T>();
  T *out = dqkv.ptr<T>(), *pdg = dgain.ptr<T>();
  for_rows(ctx, N, [=](int64_t n) {
    for (int64_t h = 0; h < H + G; ++h) {
      const T* g = h < H ? gq + (n * H + h) * d : gk + (n * G + h - H) * d;
      head_backward(in + n * W + h * d, cs + n % L * r, g, d, r, h < H ? pg[h] : T(1), pr[n * (H + G) + h],
                    out + n * W + h * d);
    }
  });
  // d gain[h] = sum of dq . rope(rms(q)); the rotation is turned back onto x on the fly.
  ctx.pool->parallel_for(H, [=](int64_t h) {
    double sum = 0;
    for (int64_t n = 0; n < N; ++n) {
      const T *x = in + n * W + h * d, *g = gq + (n * H + h) * d, *c = cs + n % L * r;
      const int64_t half = r / 2;
      T part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t j = 0; j < half; ++j) {
        const T a = x[j], b = x[half + j];
        part += g[j] * (a * c[j] + b * c[half + j]) + g[half + j] * (b * c[j] - a * c[half + j]);
      }
      part += dot(x + r, g + r, d - r);
      sum += static_cast<double>(part * pr[n * (H + G) + h]);
    }
    pdg[h] += static_cast<T>(sum);
  });
}

void rope_table(const Ctx& ctx, double base, int64_t train_len, Tensor table) {
  BG_FLOATS(table.dtype(), T, table_of<T>(ctx, base, train_len, table));
}
void qk_norm_rope_forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k,
                          Tensor rstd) {
  BG_FLOATS(qkv.dtype(), T, forward<T>(ctx, qkv, gain, rope, eps, q, k, rstd));
}
void qk_norm_rope_backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk,
                           Tensor dqkv, Tensor dgain) {
  BG_FLOATS(qkv.dtype(), T, backward<T>(ctx, qkv, gain, rope, rstd, dq, dk, dqkv, dgain));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(rope_table)
BG_CPU_BODY(qk_norm_rope_forward)
BG_CPU_BODY(qk_norm_rope_backward)
}  // namespace bg::cpu
#endif
