#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/chunk_shift.cpp"
#include "kernels/chunk_shift.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  const int64_t C = z.dim(1), L = z.dim(2);
  const T *pz = z.ptr<T>(), *ps = start.ptr<T>();
  T* po = out.ptr<T>();
  for_rows(ctx, z.dim(0) * C, [=](int64_t n) { std::copy_n(n % C == 0 ? ps : pz + (n - 1) * L, L, po + n * L); });
}

template <class T>
void shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  const int64_t B = dz.dim(0), C = dz.dim(1), L = dz.dim(2);
  const T* g = dout.ptr<T>();
  T* pdz = dz.ptr<T>();
  for_rows(ctx, B * C, [=](int64_t n) {
    if (n % C != C - 1)
      for (int64_t i = 0; i < L; ++i) pdz[n * L + i] += g[(n + 1) * L + i];
  });
  add_column_sums(ctx, B, L, dstart.ptr<T>(), [=](int64_t b, int64_t i) { return g[b * C * L + i]; });
}

void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  BG_FLOATS(z.dtype(), T, shift_forward<T>(ctx, z, start, out));
}
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  if (dz.dim(1) > 0) BG_FLOATS(dz.dtype(), T, shift_backward<T>(ctx, dout, dz, dstart));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(chunk_shift_forward)
BG_CPU_BODY(chunk_shift_backward)
}  // namespace bg::cpu
#endif
