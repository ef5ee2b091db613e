#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/smear.cpp"
#include "kernels/smear.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void forward(const Ctx& ctx, Tensor x, Tensor gate, Tensor y) {
  const int64_t L = x.dim(1), D = x.dim(2);
  const T *px = x.ptr<T>(), *pg = gate.ptr<T>();
  T* py = y.ptr<T>();
  for_rows(ctx, x.dim(0) * L, [=](int64_t n) {
    const T* now = px + n * D;
    T* out = py + n * D;
    if (n % L == 0) {
      for (int64_t i = 0; i < D; ++i) out[i] = (1 - sigmoid_of(pg[i])) * now[i];
    } else {
      for (int64_t i = 0; i < D; ++i) {
        const T g = sigmoid_of(pg[i]);
        out[i] = (1 - g) * now[i] + g * now[i - D];
      }
    }
  });
}

template <class T>
void backward(const Ctx& ctx, Tensor x, Tensor gate, Tensor dy, Tensor dx, Tensor dgate) {
  const int64_t L = x.dim(1), D = x.dim(2), N = x.dim(0) * L;
  const T *px = x.ptr<T>(), *pg = gate.ptr<T>(), *g = dy.ptr<T>();
  T* pdx = dx.ptr<T>();
  for_rows(ctx, N, [=](int64_t n) {
    const bool last = n % L == L - 1;
    for (int64_t i = 0; i < D; ++i) {
      const T s = sigmoid_of(pg[i]);
      pdx[n * D + i] = (1 - s) * g[n * D + i] + (last ? T(0) : s * g[(n + 1) * D + i]);
    }
  });
  add_column_sums(ctx, N, D, dgate.ptr<T>(), [=](int64_t n, int64_t i) {
    const T s = sigmoid_of(pg[i]), before = n % L == 0 ? T(0) : px[(n - 1) * D + i];
    return s * (1 - s) * g[n * D + i] * (before - px[n * D + i]);
  });
}

void smear_forward(const Ctx& ctx, Tensor x, Tensor gate, Tensor y) {
  BG_FLOATS(x.dtype(), T, forward<T>(ctx, x, gate, y));
}
void smear_backward(const Ctx& ctx, Tensor x, Tensor gate, Tensor dy, Tensor dx, Tensor dgate) {
  BG_FLOATS(x.dtype(), T, backward<T>(ctx, x, gate, dy, dx, dgate));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(smear_forward)
BG_CPU_BODY(smear_backward)
}  // namespace bg::cpu
#endif
