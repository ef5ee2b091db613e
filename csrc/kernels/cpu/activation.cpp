#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/activation.cpp"
#include "kernels/activation.h"
#include <algorithm>

#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

constexpr int64_t kChunk = 8192;  // elements per task

template <class F>
void for_chunks(const Ctx& ctx, int64_t n, F&& f) {
  ctx.pool->parallel_for(ceil_div(n, kChunk),
                         [&](int64_t task) { f(task * kChunk, std::min(n, (task + 1) * kChunk)); });
}

// The cumulative normal by erf; no model of record uses gelu in its inner loop, so libm is fast enough.
template <class T>
T cumulative_normal(T x) {
  return T(0.5) * (1 + std::erf(x * T(0.70710678118654752440)));
}

namespace hn = hwy::HWY_NAMESPACE;

// out[i] = (x[i] > 0 ? above : below) * x[i] * g[i], where out may be x or g. In explicit vectors: the compiler's own
// version branches on the sign of each element, which is mispredicted half the time.
template <class T>
void leaky_products(T above, T below, const T* x, const T* g, int64_t n, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  const auto high = hn::Set(d, above), low = hn::Set(d, below), zero = hn::Zero(d);
  int64_t i = 0;
  for (; i + L <= n; i += L) {
    const auto a = hn::LoadU(d, x + i);
    const auto slope = hn::IfThenElse(hn::Gt(a, zero), high, low);
    hn::StoreU(hn::Mul(hn::Mul(slope, a), hn::LoadU(d, g + i)), d, out + i);
  }
  for (; i < n; ++i) out[i] = (x[i] > 0 ? above : below) * x[i] * g[i];
}

template <class T>
void forward_part(Activation f, const T* px, int64_t n, T* py) {
  switch (f.kind) {
    case Activation::Kind::leaky_relu2:
    case Activation::Kind::relu2:
      leaky_products(T(1), static_cast<T>(f.slope * f.slope), px, px, n, py);
      break;
    case Activation::Kind::gelu:
      for (int64_t i = 0; i < n; ++i) py[i] = px[i] * cumulative_normal(px[i]);
      break;
    case Activation::Kind::silu:
      for (int64_t i = 0; i < n; ++i) py[i] = px[i] * sigmoid_of(px[i]);
      break;
  }
}

template <class T>
void backward_part(Activation f, const T* px, const T* g, int64_t n, T* out) {
  switch (f.kind) {
    case Activation::Kind::leaky_relu2:
    case Activation::Kind::relu2:
      leaky_products(T(2), static_cast<T>(2 * f.slope * f.slope), px, g, n, out);
      break;
    case Activation::Kind::gelu:
      for (int64_t i = 0; i < n; ++i) {
        const T density = exp_of(T(-0.5) * px[i] * px[i]) * T(0.39894228040143267794);
        out[i] = (cumulative_normal(px[i]) + px[i] * density) * g[i];
      }
      break;
    case Activation::Kind::silu:
      for (int64_t i = 0; i < n; ++i) {
        const T s = sigmoid_of(px[i]);
        out[i] = s * (1 + px[i] * (1 - s)) * g[i];
      }
      break;
  }
}

template <class T>
void forward(const Ctx& ctx, Activation f, Tensor x, Tensor y) {
  const T* px = x.ptr<T>();
  T* py = y.ptr<T>();
  for_chunks(ctx, x.numel(), [=](int64_t lo, int64_t hi) { forward_part(f, px + lo, hi - lo, py + lo); });
}

// In parts, so that y may lie where dy does: f(x) waits in `kept` until x and dy have been read.
template <class T>
void backward(const Ctx& ctx, Activation f, Tensor x, Tensor dy, Tensor dx, Tensor y) {
  constexpr int64_t kPart = 1024;
  const T *px = x.ptr<T>(), *g = dy.ptr<T>();
  T *out = dx.ptr<T>(), *py = y ? y.ptr<T>() : nullptr;
  for_chunks(ctx, x.numel(), [=](int64_t lo, int64_t hi) {
    T kept[kPart];
    for (int64_t i = lo; i < hi; i += kPart) {
      const int64_t n = std::min(kPart, hi - i);
      if (py != nullptr) forward_part(f, px + i, n, kept);
      backward_part(f, px + i, g + i, n, out + i);
      if (py != nullptr) std::copy_n(kept, n, py + i);
    }
  });
}

void activation_forward(const Ctx& ctx, Activation f, Tensor x, Tensor y) {
  BG_FLOATS(x.dtype(), T, forward<T>(ctx, f, x, y));
}
void activation_backward(const Ctx& ctx, Activation f, Tensor x, Tensor dy, Tensor dx, Tensor y) {
  BG_FLOATS(x.dtype(), T, backward<T>(ctx, f, x, dy, dx, y));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(activation_forward)
BG_CPU_BODY(activation_backward)
}  // namespace bg::cpu
#endif
