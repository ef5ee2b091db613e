// Rows are independent; sums over rows go by blocks of columns.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/residual.cpp"
#include <cstring>

#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"
#include "kernels/residual.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void mix_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor y) {
  const int64_t D = x.dim(1);
  const T *px = x.ptr<T>(), *p0 = x0.ptr<T>(), *a = mix.ptr<T>(), *b = a + D;
  T* py = y.ptr<T>();
  for_rows(ctx, x.dim(0), [=](int64_t n) {
    for (int64_t i = 0; i < D; ++i) py[n * D + i] = a[i] * px[n * D + i] + b[i] * p0[n * D + i];
  });
}

template <class T>
void mix_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor dy, Tensor dx, Tensor dx0, Tensor dmix) {
  const int64_t N = x.dim(0), D = x.dim(1);
  const T *px = x.ptr<T>(), *p0 = x0.ptr<T>(), *a = mix.ptr<T>(), *b = a + D, *g = dy.ptr<T>();
  T *pdx = dx.ptr<T>(), *pdx0 = dx0.ptr<T>();
  add_column_sums(ctx, N, D, dmix.ptr<T>(), [=](int64_t n, int64_t i) { return g[n * D + i] * px[n * D + i]; });
  add_column_sums(ctx, N, D, dmix.ptr<T>() + D, [=](int64_t n, int64_t i) { return g[n * D + i] * p0[n * D + i]; });
  for_rows(ctx, N, [=](int64_t n) {
    for (int64_t i = n * D, j = 0; j < D; ++i, ++j) {
      const T d = g[i];
      pdx0[i] += b[j] * d;
      pdx[i] = a[j] * d;
    }
  });
}

template <class T>
void rows_forward(const Ctx& ctx, Tensor w, Tensor scale, Tensor out) {
  const int64_t K = w.dim(1);
  const T *pw = w.ptr<T>(), *s = scale.ptr<T>();
  T* py = out.ptr<T>();
  for_rows(ctx, w.dim(0), [=](int64_t o) {
    for (int64_t i = o * K; i < (o + 1) * K; ++i) py[i] = s[o] * pw[i];
  });
}

template <class T>
void rows_backward(const Ctx& ctx, Tensor w, Tensor scale, Tensor dout, Tensor dw, Tensor dscale) {
  const int64_t K = w.dim(1);
  const T *pw = w.ptr<T>(), *s = scale.ptr<T>(), *g = dout.ptr<T>();
  T *pdw = dw.ptr<T>(), *pds = dscale.ptr<T>();
  for_rows(ctx, w.dim(0), [=](int64_t o) {
    for (int64_t i = o * K; i < (o + 1) * K; ++i) pdw[i] += s[o] * g[i];
    pds[o] += dot(pw + o * K, g + o * K, K);
  });
}

template <class T>
void add_forward(const Ctx& ctx, Tensor x, Tensor a, Tensor scale, Tensor y) {
  const int64_t D = x.dim(1);
  const T *px = x.ptr<T>(), *pa = a.ptr<T>(), *s = scale.ptr<T>();
  T* py = y.ptr<T>();
  for_rows(ctx, x.dim(0), [=](int64_t n) {
    for (int64_t i = n * D, j = 0; j < D; ++i, ++j) py[i] = px[i] + s[j] * pa[i];
  });
}

template <class T>
void add_backward(const Ctx& ctx, Tensor a, Tensor scale, Tensor dy, Tensor da, Tensor dscale) {
  const int64_t N = a.dim(0), D = a.dim(1);
  const T *pa = a.ptr<T>(), *s = scale.ptr<T>(), *g = dy.ptr<T>();
  T* pda = da.ptr<T>();
  add_column_sums(ctx, N, D, dscale.ptr<T>(), [=](int64_t n, int64_t i) { return g[n * D + i] * pa[n * D + i]; });
  for_rows(ctx, N, [=](int64_t n) {
    for (int64_t i = n * D, j = 0; j < D; ++i, ++j) pda[i] = s[j] * g[i];
  });
}

template <class T>
void scalar_forward(const Ctx& ctx, Tensor a, Tensor s, Tensor y) {
  const int64_t D = a.dim(1);
  const T *pa = a.ptr<T>(), f = *s.ptr<T>();
  T* py = y.ptr<T>();
  for_rows(ctx, a.dim(0), [=](int64_t n) {
    for (int64_t i = n * D; i < (n + 1) * D; ++i) py[i] += f * pa[i];
  });
}

template <class T>
void scalar_backward(const Ctx& ctx, Tensor a, Tensor s, Tensor dy, Tensor da, Tensor ds) {
  const int64_t N = a.dim(0), D = a.dim(1);
  const T *pa = a.ptr<T>(), *g = dy.ptr<T>(), f = *s.ptr<T>();
  T* pda = da.ptr<T>();
  double sum = 0;  // one scalar over everything: in row order, in double
  for (int64_t n = 0; n < N; ++n) sum += dot(g + n * D, pa + n * D, D);
  *ds.ptr<T>() += static_cast<T>(sum);
  for_rows(ctx, N, [=](int64_t n) {
    for (int64_t i = n * D; i < (n + 1) * D; ++i) pda[i] = f * g[i];
  });
}

void residual_mix_forward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor y) {
  BG_FLOATS(x.dtype(), T, mix_forward<T>(ctx, x, x0, mix, y));
}
void residual_mix_backward(const Ctx& ctx, Tensor x, Tensor x0, Tensor mix, Tensor dy, Tensor dx, Tensor dx0,
                           Tensor dmix) {
  BG_FLOATS(x.dtype(), T, mix_backward<T>(ctx, x, x0, mix, dy, dx, dx0, dmix));
}
void scale_rows_forward(const Ctx& ctx, Tensor w, Tensor scale, Tensor out) {
  BG_FLOATS(w.dtype(), T, rows_forward<T>(ctx, w, scale, out));
}
void scale_rows_backward(const Ctx& ctx, Tensor w, Tensor scale, Tensor dout, Tensor dw, Tensor dscale) {
  BG_FLOATS(w.dtype(), T, rows_backward<T>(ctx, w, scale, dout, dw, dscale));
}
void scaled_add_forward(const Ctx& ctx, Tensor x, Tensor a, Tensor scale, Tensor y) {
  BG_FLOATS(x.dtype(), T, add_forward<T>(ctx, x, a, scale, y));
}
void scaled_add_backward(const Ctx& ctx, Tensor a, Tensor scale, Tensor dy, Tensor da, Tensor dscale) {
  BG_FLOATS(a.dtype(), T, add_backward<T>(ctx, a, scale, dy, da, dscale));
}
void scalar_add_forward(const Ctx& ctx, Tensor a, Tensor s, Tensor y) {
  BG_FLOATS(a.dtype(), T, scalar_forward<T>(ctx, a, s, y));
}
void scalar_add_backward(const Ctx& ctx, Tensor a, Tensor s, Tensor dy, Tensor da, Tensor ds) {
  BG_FLOATS(a.dtype(), T, scalar_backward<T>(ctx, a, s, dy, da, ds));
}

template <class T>
void add_all(const Ctx& ctx, Tensor a, Tensor y) {
  constexpr int64_t kChunk = 8192;
  const int64_t n = a.numel();
  const T* pa = a.ptr<T>();
  T* py = y.ptr<T>();
  ctx.pool->parallel_for(ceil_div(n, kChunk), [=](int64_t task) {
    for (int64_t i = task * kChunk; i < std::min(n, (task + 1) * kChunk); ++i) py[i] += pa[i];
  });
}

void fill_zero(const Ctx&, Tensor y) {
  std::memset(y.data(), 0, y.size_bytes());
}
void accumulate(const Ctx& ctx, Tensor a, Tensor y) {
  BG_FLOATS(a.dtype(), T, add_all<T>(ctx, a, y));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(residual_mix_forward)
BG_CPU_BODY(residual_mix_backward)
BG_CPU_BODY(scale_rows_forward)
BG_CPU_BODY(scale_rows_backward)
BG_CPU_BODY(scaled_add_forward)
BG_CPU_BODY(scaled_add_backward)
BG_CPU_BODY(scalar_add_forward)
BG_CPU_BODY(scalar_add_backward)
BG_CPU_BODY(fill_zero)
BG_CPU_BODY(accumulate)
}  // namespace bg::cpu
#endif
