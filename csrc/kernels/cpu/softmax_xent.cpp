#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/softmax_xent.cpp"
#include "kernels/softmax_xent.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void cap_all(const Ctx& ctx, double cap, Tensor x) {
  const int64_t W = x.dim(-1);
  T *p = x.ptr<T>(), c = static_cast<T>(cap);
  for_rows(ctx, x.numel() / W, [=](int64_t n) {
    for (int64_t i = n * W; i < (n + 1) * W; ++i) p[i] = c * tanh_of(p[i] / c);
  });
}

template <class T>
void forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  const int64_t V = logits.dim(1);
  const T* p = logits.ptr<T>();
  const int32_t* target = targets.ptr<int32_t>();
  double* out = nll.ptr<double>();
  T* pl = lse.ptr<T>();
  for_rows(ctx, logits.dim(0), [=](int64_t n) {
    const T* row = p + n * V;
    T largest = row[0];
#pragma omp simd reduction(max : largest)
    for (int64_t v = 0; v < V; ++v) largest = std::max(largest, row[v]);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; ++v) sum += exp_of(row[v] - largest);
    const double log_sum = static_cast<double>(largest) + std::log(static_cast<double>(sum));
    pl[n] = static_cast<T>(log_sum);
    out[n] = target[n] < 0 ? 0.0 : log_sum - static_cast<double>(row[target[n]]);
  });
}

template <class T>
void backward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor lse, double cap, double scale, Tensor dlogits) {
  const int64_t V = logits.dim(1);
  const T* p = logits.ptr<T>();
  T* const pd = dlogits.ptr<T>();
  const int32_t* target = targets.ptr<int32_t>();
  const T *pl = lse.ptr<T>(), s = static_cast<T>(scale), inverse = cap > 0 ? static_cast<T>(1 / cap) : T(0);
  for_rows(ctx, logits.dim(0), [=](int64_t n) {
    const T* row = p + n * V;
    T* out = pd + n * V;
    if (target[n] < 0) {
      std::fill_n(out, V, T(0));
      return;
    }
    const T l = pl[n], at_target = row[target[n]] * inverse;
    const T hit = s * (1 - at_target * at_target);
    for (int64_t v = 0; v < V; ++v) {
      const T z = row[v] * inverse;
      out[v] = s * exp_of(row[v] - l) * (1 - z * z);
    }
    out[target[n]] -= hit;
  });
}

void softcap(const Ctx& ctx, double cap, Tensor x) {
  if (cap > 0 && x.numel() > 0) BG_FLOATS(x.dtype(), T, cap_all<T>(ctx, cap, x));
}
void softmax_xent_forward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor nll, Tensor lse) {
  BG_FLOATS(logits.dtype(), T, forward<T>(ctx, logits, targets, nll, lse));
}
void softmax_xent_backward(const Ctx& ctx, Tensor logits, Tensor targets, Tensor lse, double cap, double scale,
                           Tensor dlogits) {
  BG_FLOATS(logits.dtype(), T, backward<T>(ctx, logits, targets, lse, cap, scale, dlogits));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(softcap)
BG_CPU_BODY(softmax_xent_forward)
BG_CPU_BODY(softmax_xent_backward)
}  // namespace bg::cpu
#endif
