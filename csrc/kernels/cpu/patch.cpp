#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/patch.cpp"
#include "kernels/patch.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void unfold(const Ctx& ctx, Tensor e, int64_t K, Tensor out) {
  const int64_t L = e.dim(1), E = e.dim(2), J = L / K;
  const T* pe = e.ptr<T>();
  T* po = out.ptr<T>();
  for_rows(ctx, e.dim(0) * J, [=](int64_t n) {
    const int64_t b = n / J, first = n % J * K - K + 1;
    for (int64_t c = 0; c < E; ++c)
      for (int64_t i = 0; i < K; ++i) po[(n * E + c) * K + i] = first + i < 0 ? T(0) : pe[(b * L + first + i) * E + c];
  });
}

template <class T>
void fold(const Ctx& ctx, Tensor dout, int64_t K, Tensor de) {
  const int64_t L = de.dim(1), E = de.dim(2), J = L / K;
  const T* g = dout.ptr<T>();
  T* pe = de.ptr<T>();
  for_rows(ctx, de.dim(0) * L, [=](int64_t n) {
    const int64_t t = n % L, j = (t + K - 1) / K, i = t - (j * K - K + 1);
    if (j >= J) return;
    for (int64_t c = 0; c < E; ++c) pe[n * E + c] += g[((n / L * J + j) * E + c) * K + i];
  });
}

template <class T>
void conv(const Ctx& ctx, Tensor s, Tensor w, Tensor c) {
  const int64_t L = s.dim(1), D = s.dim(2), K = w.dim(2);
  const T *ps = s.ptr<T>(), *pw = w.ptr<T>();
  T* pc = c.ptr<T>();
  for_rows(ctx, s.dim(0) * L, [=](int64_t n) {
    T* row = pc + n * D;
    std::fill_n(row, D, T(0));
    for (int64_t back = n % L % K; back >= 0; --back)
      for (int64_t i = 0; i < D; ++i) row[i] += pw[i * K + K - 1 - back] * ps[(n - back) * D + i];
  });
}

template <class T>
void conv_gradient(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw) {
  const int64_t L = s.dim(1), D = s.dim(2), K = w.dim(2), N = s.dim(0) * L;
  const T *ps = s.ptr<T>(), *pw = w.ptr<T>(), *g = dc.ptr<T>();
  T *pds = ds.ptr<T>(), *pdw = dw.ptr<T>();
  for_rows(ctx, N, [=](int64_t n) {
    T* row = pds + n * D;
    std::fill_n(row, D, T(0));
    for (int64_t ahead = 0; n % L % K + ahead < K; ++ahead)
      for (int64_t i = 0; i < D; ++i) row[i] += pw[i * K + K - 1 - ahead] * g[(n + ahead) * D + i];
  });
  ctx.pool->parallel_for(D, [=](int64_t i) {
    for (int64_t back = 0; back < K; ++back) {
      double sum = 0;
      for (int64_t n = 0; n < N; ++n)
        if (n % L % K >= back) sum += static_cast<double>(g[n * D + i]) * static_cast<double>(ps[(n - back) * D + i]);
      pdw[i * K + K - 1 - back] += static_cast<T>(sum);
    }
  });
}

void patch_unfold_forward(const Ctx& ctx, Tensor e, int64_t K, Tensor out) {
  BG_FLOATS(e.dtype(), T, unfold<T>(ctx, e, K, out));
}
void patch_unfold_backward(const Ctx& ctx, Tensor dout, int64_t K, Tensor de) {
  BG_FLOATS(de.dtype(), T, fold<T>(ctx, dout, K, de));
}
void patch_conv_forward(const Ctx& ctx, Tensor s, Tensor w, Tensor c) {
  BG_FLOATS(s.dtype(), T, conv<T>(ctx, s, w, c));
}
void patch_conv_backward(const Ctx& ctx, Tensor s, Tensor w, Tensor dc, Tensor ds, Tensor dw) {
  BG_FLOATS(s.dtype(), T, conv_gradient<T>(ctx, s, w, dc, ds, dw));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(patch_unfold_forward)
BG_CPU_BODY(patch_unfold_backward)
BG_CPU_BODY(patch_conv_forward)
BG_CPU_BODY(patch_conv_backward)
}  // namespace bg::cpu
#endif
