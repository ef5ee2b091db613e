// One row at a time; a row's sums run over vector lanes in a fixed order.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rms_norm.cpp"
#include "kernels/rms_norm.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd) {
  const int64_t D = x.dim(1);
  const T* px = x.ptr<T>();
  T *py = y.ptr<T>(), *pr = rstd.ptr<T>();
  for_rows(ctx, x.dim(0), [=](int64_t n) {
    const T* row = px + n * D;
    const T r = 1 / std::sqrt(dot(row, row, D) / static_cast<T>(D) + static_cast<T>(eps));
    const T factor = static_cast<T>(scale) * r;
    for (int64_t i = 0; i < D; ++i) py[n * D + i] = factor * row[i];
    pr[n] = r;
  });
}

template <class T>
void backward(const Ctx& ctx, Tensor y, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write) {
  const int64_t D = y.dim(1);
  const T *py = y.ptr<T>(), *pr = rstd.ptr<T>(), *pdy = dy.ptr<T>();
  T* pdx = dx.ptr<T>();
  for_rows(ctx, y.dim(0), [=](int64_t n) {
    const T *row = py + n * D, *g = pdy + n * D;
    T* out = pdx + n * D;
    const T s = static_cast<T>(scale), r = pr[n], a = s * r, b = r * dot(row, g, D) / (s * static_cast<T>(D));
    if (write == Write::set) {
      for (int64_t i = 0; i < D; ++i) out[i] = a * g[i] - b * row[i];
    } else {
      for (int64_t i = 0; i < D; ++i) out[i] += a * g[i] - b * row[i];
    }
  });
}

void rms_norm_forward(const Ctx& ctx, Tensor x, double scale, double eps, Tensor y, Tensor rstd) {
  BG_FLOATS(x.dtype(), T, forward<T>(ctx, x, scale, eps, y, rstd));
}
void rms_norm_backward(const Ctx& ctx, Tensor y, Tensor rstd, double scale, Tensor dy, Tensor dx, Write write) {
  BG_FLOATS(y.dtype(), T, backward<T>(ctx, y, rstd, scale, dy, dx, write));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(rms_norm_forward)
BG_CPU_BODY(rms_norm_backward)
}  // namespace bg::cpu
#endif
