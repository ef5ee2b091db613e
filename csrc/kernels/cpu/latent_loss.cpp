#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/latent_loss.cpp"
#include "kernels/latent_loss.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

constexpr double kSmallestStd = 1e-6;
constexpr double kFirstPoint = 0.2, kPointStep = 0.175;
constexpr int64_t kCols = 16;

void sum_f64(const Ctx&, Tensor x, Tensor out) {
  const double* p = x.ptr<double>();
  double sum = 0;
  for (int64_t i = 0; i < x.numel(); ++i) sum += p[i];
  *out.ptr<double>() = sum;
}

template <class T>
void mse_sum(Tensor a, Tensor b, Tensor out) {
  const T *pa = a.ptr<T>(), *pb = b.ptr<T>();
  double sum = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double d = static_cast<double>(pa[i]) - static_cast<double>(pb[i]);
    sum += d * d;
  }
  *out.ptr<double>() = sum / static_cast<double>(a.numel());
}

template <class T>
void mse_gradient(Tensor a, Tensor b, double scale, Tensor da) {
  const T *pa = a.ptr<T>(), *pb = b.ptr<T>(), s = static_cast<T>(2 * scale / static_cast<double>(a.numel()));
  T* g = da.ptr<T>();
  for (int64_t i = 0; i < a.numel(); ++i) g[i] = s * (pa[i] - pb[i]);
}

template <class T>
void standard(const Ctx& ctx, Tensor z, Tensor y, Tensor std) {
  const int64_t R = z.dim(0), L = z.dim(1);
  const T* pz = z.ptr<T>();
  T *py = y.ptr<T>(), *ps = std.ptr<T>();
  ctx.pool->parallel_for(ceil_div(L, kCols), [=](int64_t task) {
    const int64_t lo = task * kCols, width = std::min(L - lo, kCols);
    double mean[kCols] = {}, square[kCols] = {};
    for (int64_t r = 0; r < R; ++r)
      for (int64_t j = 0; j < width; ++j) mean[j] += static_cast<double>(pz[r * L + lo + j]);
    for (int64_t j = 0; j < width; ++j) mean[j] /= static_cast<double>(R);
    for (int64_t r = 0; r < R; ++r)
      for (int64_t j = 0; j < width; ++j) {
        const double d = static_cast<double>(pz[r * L + lo + j]) - mean[j];
        square[j] += d * d;
      }
    T inverse[kCols] = {};
    for (int64_t j = 0; j < width; ++j) {
      const double s = std::sqrt(square[j] / static_cast<double>(R - 1));
      ps[lo + j] = static_cast<T>(s);
      inverse[j] = static_cast<T>(1 / std::max(s, kSmallestStd));
    }
    for (int64_t r = 0; r < R; ++r)
      for (int64_t j = 0; j < width; ++j)
        py[r * L + lo + j] = (pz[r * L + lo + j] - static_cast<T>(mean[j])) * inverse[j];
  });
}

// dz = (dy - mean(dy) - y * sum(dy y) / (R-1)) / std; the last part is absent where the floor held.
template <class T>
void standard_gradient(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write) {
  const int64_t R = y.dim(0), L = y.dim(1);
  const T *py = y.ptr<T>(), *ps = std.ptr<T>(), *g = dy.ptr<T>();
  T* out = dz.ptr<T>();
  ctx.pool->parallel_for(ceil_div(L, kCols), [=](int64_t task) {
    const int64_t lo = task * kCols, width = std::min(L - lo, kCols);
    double mean[kCols] = {}, along[kCols] = {};
    for (int64_t r = 0; r < R; ++r)
      for (int64_t j = 0; j < width; ++j) {
        const double d = static_cast<double>(g[r * L + lo + j]);
        mean[j] += d;
        along[j] += d * static_cast<double>(py[r * L + lo + j]);
      }
    for (int64_t j = 0; j < width; ++j) {
      const double s = static_cast<double>(ps[lo + j]);
      const T m = static_cast<T>(mean[j] / static_cast<double>(R));
      const T a = s > kSmallestStd ? static_cast<T>(along[j] / static_cast<double>(R - 1)) : T(0);
      const T inverse = static_cast<T>(1 / std::max(s, kSmallestStd));
      for (int64_t r = 0; r < R; ++r) {
        const int64_t i = r * L + lo + j;
        const T d = (g[i] - m - a * py[i]) * inverse;
        out[i] = write == Write::set ? d : out[i] + d;
      }
    }
  });
}

// cos and sin of t_k p for k = 0, 1, ...: one angle, then turns by the step.
template <class T>
struct Turns {
  T c, s, dc, ds;
  explicit Turns(T p)
      : c(std::cos(static_cast<T>(kFirstPoint) * p)),
        s(std::sin(static_cast<T>(kFirstPoint) * p)),
        dc(std::cos(static_cast<T>(kPointStep) * p)),
        ds(std::sin(static_cast<T>(kPointStep) * p)) {}
  void turn() {
    const T next = c * dc - s * ds;
    s = s * dc + c * ds;
    c = next;
  }
};
constexpr double point(int64_t k) {
  return kFirstPoint + kPointStep * static_cast<double>(k);
}

template <class T>
void sigreg_sums(const Ctx& ctx, Tensor p, Tensor means, Tensor out) {
  const int64_t R = p.dim(0), P = p.dim(1);
  const T* pp = p.ptr<T>();
  double *mc = means.ptr<double>(), *ms = mc + P * kSigregPoints;
  ctx.pool->parallel_for(ceil_div(P, kCols), [=](int64_t task) {
    for (int64_t j = task * kCols; j < std::min(P, (task + 1) * kCols); ++j) {
      double c[kSigregPoints] = {}, s[kSigregPoints] = {};
      for (int64_t r = 0; r < R; ++r) {
        Turns<T> turns(pp[r * P + j]);
        for (int64_t k = 0; k < kSigregPoints; ++k, turns.turn()) {
          c[k] += static_cast<double>(turns.c);
          s[k] += static_cast<double>(turns.s);
        }
      }
      for (int64_t k = 0; k < kSigregPoints; ++k) {
        mc[j * kSigregPoints + k] = c[k] / static_cast<double>(R);
        ms[j * kSigregPoints + k] = s[k] / static_cast<double>(R);
      }
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < P * kSigregPoints; ++i) {
    const double t = point(i % kSigregPoints), d = mc[i] - std::exp(-t * t / 2);
    sum += d * d + ms[i] * ms[i];
  }
  *out.ptr<double>() = sum / static_cast<double>(P * kSigregPoints);
}

template <class T>
void sigreg_gradient(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor dp) {
  const int64_t R = p.dim(0), P = p.dim(1);
  const T* pp = p.ptr<T>();
  T* g = dp.ptr<T>();
  const double *mc = means.ptr<double>(), *ms = mc + P * kSigregPoints;
  const double factor = 2 * scale / static_cast<double>(P * kSigregPoints * R);
  ctx.pool->parallel_for(ceil_div(P, kCols), [=](int64_t task) {
    for (int64_t j = task * kCols; j < std::min(P, (task + 1) * kCols); ++j) {
      T a[kSigregPoints], b[kSigregPoints];
      for (int64_t k = 0; k < kSigregPoints; ++k) {
        const double t = point(k);
        a[k] = static_cast<T>(-factor * t * (mc[j * kSigregPoints + k] - std::exp(-t * t / 2)));
        b[k] = static_cast<T>(factor * t * ms[j * kSigregPoints + k]);
      }
      for (int64_t r = 0; r < R; ++r) {
        Turns<T> turns(pp[r * P + j]);
        T sum = 0;
        for (int64_t k = 0; k < kSigregPoints; ++k, turns.turn()) sum += a[k] * turns.s + b[k] * turns.c;
        g[r * P + j] = sum;
      }
    }
  });
}

void mse_forward(const Ctx&, Tensor a, Tensor b, Tensor out) {
  BG_FLOATS(a.dtype(), T, mse_sum<T>(a, b, out));
}
void mse_backward(const Ctx&, Tensor a, Tensor b, double scale, Tensor weight, Tensor da) {
  BG_FLOATS(a.dtype(), T, mse_gradient<T>(a, b, scale * *weight.ptr<double>(), da));
}
void standardise_forward(const Ctx& ctx, Tensor z, Tensor y, Tensor std) {
  BG_FLOATS(z.dtype(), T, standard<T>(ctx, z, y, std));
}
void standardise_backward(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write) {
  BG_FLOATS(y.dtype(), T, standard_gradient<T>(ctx, y, std, dy, dz, write));
}
void sigreg_forward(const Ctx& ctx, Tensor p, Tensor means, Tensor out) {
  BG_FLOATS(p.dtype(), T, sigreg_sums<T>(ctx, p, means, out));
}
void sigreg_backward(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor weight, Tensor dp) {
  BG_FLOATS(p.dtype(), T, sigreg_gradient<T>(ctx, p, means, scale * *weight.ptr<double>(), dp));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(sum_f64)
BG_CPU_BODY(mse_forward)
BG_CPU_BODY(mse_backward)
BG_CPU_BODY(standardise_forward)
BG_CPU_BODY(standardise_backward)
BG_CPU_BODY(sigreg_forward)
BG_CPU_BODY(sigreg_backward)
}  // namespace bg::cpu
#endif
