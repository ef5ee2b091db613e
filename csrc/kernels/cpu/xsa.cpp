#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/xsa.cpp"
#include "kernels/xsa.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

constexpr double kSmallest = 1e-12;  // of a value's norm

template <class T>
void forward(const Ctx& ctx, Tensor y, Tensor v, Tensor out) {
  const int64_t L = y.dim(1), H = y.dim(2), G = v.dim(2), d = y.dim(3), s0 = v.stride(0), s1 = v.stride(1),
                s2 = v.stride(2);
  const T *py = y.ptr<T>(), *pv = v.ptr<T>();
  T* po = out.ptr<T>();
  for_rows(ctx, y.dim(0) * L, [=](int64_t n) {
    for (int64_t g = 0; g < G; ++g) {
      const T* value = pv + n / L * s0 + n % L * s1 + g * s2;
      const T norm = std::max(std::sqrt(dot(value, value, d)), static_cast<T>(kSmallest));
      for (int64_t h = g * (H / G); h < (g + 1) * (H / G); ++h) {
        const T* row = py + (n * H + h) * d;
        const T along = dot(row, value, d) / (norm * norm);
        for (int64_t j = 0; j < d; ++j) po[(n * H + h) * d + j] = row[j] - along * value[j];
      }
    }
  });
}

// With u = v / m, m = |v|:  out = y - (y.u) u,  du = -(g.u) y - (y.u) g,  dv = (du - (du.u) u) / m.
template <class T>
void backward_value(const Ctx& ctx, Tensor y, Tensor v, Tensor dout, Tensor dv) {
  const int64_t L = y.dim(1), H = y.dim(2), G = v.dim(2), d = y.dim(3), s0 = v.stride(0), s1 = v.stride(1),
                s2 = v.stride(2);
  const int64_t t0 = dv.stride(0), t1 = dv.stride(1), t2 = dv.stride(2);
  const T *py = y.ptr<T>(), *pv = v.ptr<T>(), *pg = dout.ptr<T>();
  T* pdv = dv.ptr<T>();
  for_rows(ctx, y.dim(0) * L, [=](int64_t n) {
    for (int64_t group = 0; group < G; ++group) {
      const T* value = pv + n / L * s0 + n % L * s1 + group * s2;
      T* dvalue = pdv + n / L * t0 + n % L * t1 + group * t2;
      const T length = std::sqrt(dot(value, value, d));
      const bool normal = length > static_cast<T>(kSmallest);
      const T m = normal ? length : static_cast<T>(kSmallest);
      for (int64_t h = group * (H / G); h < (group + 1) * (H / G); ++h) {
        const T *row = py + (n * H + h) * d, *g = pg + (n * H + h) * d;
        const T yu = dot(row, value, d) / m, gu = dot(g, value, d) / m;
        const T along = normal ? 2 * yu * gu : T(0);  // -du.u, which a norm at its floor does not see
        for (int64_t j = 0; j < d; ++j) dvalue[j] += (along * (value[j] / m) - gu * row[j] - yu * g[j]) / m;
      }
    }
  });
}

void xsa_forward(const Ctx& ctx, Tensor y, Tensor v, Tensor out) {
  BG_FLOATS(y.dtype(), T, forward<T>(ctx, y, v, out));
}
void xsa_backward_value(const Ctx& ctx, Tensor y, Tensor v, Tensor dout, Tensor dv) {
  BG_FLOATS(y.dtype(), T, backward_value<T>(ctx, y, v, dout, dv));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(xsa_forward)
BG_CPU_BODY(xsa_backward_value)
}  // namespace bg::cpu
#endif
