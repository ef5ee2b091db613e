#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/chunk.cpp"
#include "kernels/chunk.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

// out[b,c] = factor * sum of x[b,t] over chunk c.
template <class T>
void sums(const Ctx& ctx, Tensor x, int64_t chunk, T factor, Tensor out) {
  const int64_t L = x.dim(1), D = x.dim(2), C = out.dim(1);
  const T* px = x.ptr<T>();
  T* po = out.ptr<T>();
  for_rows(ctx, x.dim(0) * C, [=](int64_t n) {
    const T* first = px + (n / C * L + n % C * chunk) * D;
    T* row = po + n * D;
    for (int64_t i = 0; i < D; ++i) row[i] = first[i];
    for (int64_t t = 1; t < chunk; ++t)
      for (int64_t i = 0; i < D; ++i) row[i] += first[t * D + i];
    for (int64_t i = 0; i < D; ++i) row[i] *= factor;
  });
}

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

template <class T>
void add_forward(const Ctx& ctx, Tensor a, int64_t chunk, Tensor x) {
  const int64_t L = x.dim(1), D = x.dim(2), C = a.dim(1);
  const T* pa = a.ptr<T>();
  T* px = x.ptr<T>();
  for_rows(ctx, x.dim(0) * L, [=](int64_t n) {
    const int64_t c = n % L / chunk;
    if (c >= C) return;
    const T* row = pa + (n / L * C + c) * D;
    for (int64_t i = 0; i < D; ++i) px[n * D + i] += row[i];
  });
}

template <class T>
void step(Tensor x, Tensor at, Tensor limit, int64_t chunk, Tensor next, Tensor sum, Tensor mean, Tensor added) {
  const int64_t n = x.dim(1), D = x.dim(2);
  const T factor = T(1) / static_cast<T>(chunk);
  for (int64_t b = 0; b < x.dim(0); ++b) {
    const int64_t first = at.ptr<int32_t>()[b];
    T *row_sum = sum.ptr<T>() + b * D, *row_added = added.ptr<T>() + b * D;
    for (int64_t i = 0; first >= 0 && i < n; ++i) {
      const int64_t t = first + i;
      T* row = x.ptr<T>() + (b * n + i) * D;
      if (t % chunk == 0) {
        std::copy_n(row, D, row_sum);
        if (next.data() != added.data()) std::copy_n(next.ptr<T>() + b * D, D, row_added);
      } else {
        for (int64_t j = 0; j < D; ++j) row_sum[j] += row[j];
      }
      if (t % chunk == chunk - 1)
        for (int64_t j = 0; j < D; ++j) mean.ptr<T>()[b * D + j] = row_sum[j] * factor;
      if (t < limit.ptr<int32_t>()[b])
        for (int64_t j = 0; j < D; ++j) row[j] += row_added[j];
    }
  }
}

void chunk_mean(const Ctx& ctx, Tensor x, int64_t chunk, Tensor m) {
  BG_FLOATS(x.dtype(), T, sums<T>(ctx, x, chunk, T(1) / static_cast<T>(chunk), m));
}
void chunk_shift_forward(const Ctx& ctx, Tensor z, Tensor start, Tensor out) {
  BG_FLOATS(z.dtype(), T, shift_forward<T>(ctx, z, start, out));
}
void chunk_shift_backward(const Ctx& ctx, Tensor dout, Tensor dz, Tensor dstart) {
  if (dz.dim(1) > 0) BG_FLOATS(dz.dtype(), T, shift_backward<T>(ctx, dout, dz, dstart));
}
void chunk_add_forward(const Ctx& ctx, Tensor a, int64_t chunk, Tensor x) {
  BG_FLOATS(x.dtype(), T, add_forward<T>(ctx, a, chunk, x));
}
void chunk_add_backward(const Ctx& ctx, Tensor dx, int64_t chunk, Tensor da) {
  BG_FLOATS(dx.dtype(), T, sums<T>(ctx, dx, chunk, T(1), da));
}
void chunk_step(const Ctx&, Tensor x, Tensor at, Tensor limit, int64_t chunk, Tensor next, Tensor sum, Tensor mean,
                Tensor added) {
  BG_FLOATS(x.dtype(), T, step<T>(x, at, limit, chunk, next, sum, mean, added));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(chunk_mean)
BG_CPU_BODY(chunk_shift_forward)
BG_CPU_BODY(chunk_shift_backward)
BG_CPU_BODY(chunk_add_forward)
BG_CPU_BODY(chunk_add_backward)
BG_CPU_BODY(chunk_step)
}  // namespace bg::cpu
#endif
