// Vector arithmetic that float32 kernels share, compiled once per instruction set: exponential and dot product.
#include "hwy/highway.h"

// Highway's own guard for headers that are compiled once per target.
#if defined(BG_KERNELS_CPU_VECTOR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BG_KERNELS_CPU_VECTOR_INL_H_
#undef BG_KERNELS_CPU_VECTOR_INL_H_
#else
#define BG_KERNELS_CPU_VECTOR_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// 2^x for float lanes, relative error below 1e-7 (degree 6, least maximal relative error on [-1/2, 1/2]; 2^n is exact
/// for integers n). Below -126 the result is 0, above 127.49 it is infinite, NaN stays NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V exp2_of(D d, V x) {
  const hn::RebindToSigned<D> di;
  const V n = hn::Round(hn::Min(x, hn::Set(d, 128.0f)));
  const V f = hn::Sub(hn::Min(x, hn::Set(d, 128.0f)), n);
  V p = hn::Set(d, 1.53533590e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.33988750e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.61843692e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.55033237e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.40226477e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.93147182e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const V y = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::ConvertTo(di, n))));
  const V big = hn::IfThenElse(hn::Gt(x, hn::Set(d, 127.49f)), hn::Set(d, HUGE_VALF), y);
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), hn::IfThenElse(hn::IsNaN(x), x, big));
}

/// Sum of x[i] * y[i], i < n, in an order that n alone decides.
HWY_INLINE float dot_of(const float* HWY_RESTRICT x, const float* HWY_RESTRICT y, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t L = static_cast<int64_t>(hn::Lanes(d));
  auto sum = hn::Zero(d);
  int64_t i = 0;
  for (; i + L <= n; i += L) sum = hn::MulAdd(hn::LoadU(d, x + i), hn::LoadU(d, y + i), sum);
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; i < n; ++i) total += x[i] * y[i];
  return total;
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
