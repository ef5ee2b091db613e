#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/segment.cpp"
#include "kernels/segment.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

// The three kinds of runs. span(b, p): the positions of run p of row b; run(b, t): the run of position t, or -1;
// mean(sum, n): the mean of a run with n positions in the row.
struct Span {
  int64_t first, end;
  int64_t size() const { return end - first; }
};
struct WholeRuns {
  int64_t K, P;
  explicit WholeRuns(const Segments& s) : K(s.K), P(s.P) {}
  Span span(int64_t, int64_t p) const { return {p * K, p * K + K}; }
  int64_t run(int64_t, int64_t t) const { return t / K < P ? t / K : -1; }
  template <class T>
  T mean(T sum, int64_t) const {
    return sum * (T(1) / static_cast<T>(K));
  }
};
struct LeadingRuns {
  int64_t K, lead, P;
  explicit LeadingRuns(const Segments& s) : K(s.K), lead(s.lead), P(s.P) {}
  Span span(int64_t, int64_t p) const { return {std::max<int64_t>(0, p * K - lead), p * K - lead + K}; }
  int64_t run(int64_t, int64_t t) const { return (t + lead) / K < P ? (t + lead) / K : -1; }
  template <class T>
  T mean(T sum, int64_t) const {
    return sum / static_cast<T>(K);
  }
};
struct ListedRuns {
  const int32_t *start, *of;
  int64_t P, T;
  explicit ListedRuns(const Segments& s) : start(s.start.ptr<int32_t>()), of(s.of.ptr<int32_t>()), P(s.P), T(s.T) {}
  Span span(int64_t b, int64_t p) const {
    const int32_t *starts = start + b * P, *runs = of + b * T;
    const int64_t limit = p + 1 < P ? starts[p + 1] : T;
    return {starts[p], std::partition_point(runs + starts[p], runs + limit, [p](int32_t r) { return r == p; }) - runs};
  }
  int64_t run(int64_t b, int64_t t) const { return of[b * T + t]; }
  template <class T_>
  T_ mean(T_ sum, int64_t n) const {
    return sum / static_cast<T_>(std::max<int64_t>(1, n));
  }
};

// Calls f with the runs as what they are.
template <class F>
void with_runs(const Segments& s, F&& f) {
  if (s.K == 0)
    f(ListedRuns(s));
  else if (s.lead == 0)
    f(WholeRuns(s));
  else
    f(LeadingRuns(s));
}

// out[b,p] = sum of x[b,t] over run p, or the mean.
template <class T, bool kMean, class Runs>
void sums(const Ctx& ctx, Tensor x, const Runs& runs, Tensor out) {
  const int64_t L = x.dim(1), D = x.dim(2), P = out.dim(1);
  const T* px = x.ptr<T>();
  T* po = out.ptr<T>();
  for_rows(ctx, x.dim(0) * P, [=](int64_t n) {
    const Span span = runs.span(n / P, n % P);
    const T* from = px + n / P * L * D;
    T* row = po + n * D;
    int64_t t = span.first;
    if constexpr (std::is_same_v<Runs, WholeRuns>)  // a sum that begins with -0 stays -0
      std::copy_n(from + t++ * D, D, row);
    else
      std::fill_n(row, D, T(0));
    for (; t < span.end; ++t)
      for (int64_t i = 0; i < D; ++i) row[i] += from[t * D + i];
    if constexpr (kMean)
      for (int64_t i = 0; i < D; ++i) row[i] = runs.mean(row[i], span.size());
  });
}

template <class T, class Runs>
void mean_backward(const Ctx& ctx, Tensor dm, const Runs& runs, Tensor dx) {
  const int64_t L = dx.dim(1), D = dx.dim(2), P = dm.dim(1);
  const T* g = dm.ptr<T>();
  T* pdx = dx.ptr<T>();
  for_rows(ctx, dx.dim(0) * L, [=](int64_t n) {
    const int64_t b = n / L, p = runs.run(b, n % L);
    if (p < 0) {
      std::fill_n(pdx + n * D, D, T(0));
      return;
    }
    const int64_t size = runs.span(b, p).size();
    for (int64_t i = 0; i < D; ++i) pdx[n * D + i] = runs.mean(g[(b * P + p) * D + i], size);
  });
}

template <class T, class Runs>
void add_forward(const Ctx& ctx, Tensor a, const Runs& runs, Tensor x) {
  const int64_t L = x.dim(1), D = x.dim(2), P = a.dim(1);
  const T* pa = a.ptr<T>();
  T* px = x.ptr<T>();
  for_rows(ctx, x.dim(0) * L, [=](int64_t n) {
    const int64_t p = runs.run(n / L, n % L);
    if (p < 0) return;
    const T* row = pa + (n / L * P + p) * D;
    for (int64_t i = 0; i < D; ++i) px[n * D + i] += row[i];
  });
}

// f(the run's row, the row of its first position) for every run, with -1 for an empty one.
template <class Runs, class F>
void for_firsts(const Ctx& ctx, int64_t B, int64_t P, int64_t L, const Runs& runs, F&& f) {
  for_rows(ctx, B * P, [=](int64_t n) {
    const Span span = runs.span(n / P, n % P);
    f(n, span.size() > 0 ? n / P * L + span.first : -1);
  });
}

template <class T>
void step(Tensor x, Tensor at, Tensor limit, int64_t K, Tensor next, Tensor sum, Tensor mean, Tensor added) {
  const int64_t n = x.dim(1), D = x.dim(2);
  const T factor = T(1) / static_cast<T>(K);
  for (int64_t b = 0; b < x.dim(0); ++b) {
    const int64_t first = at.ptr<int32_t>()[b];
    T *row_sum = sum.ptr<T>() + b * D, *row_added = added.ptr<T>() + b * D;
    for (int64_t i = 0; first >= 0 && i < n; ++i) {
      const int64_t t = first + i;
      T* row = x.ptr<T>() + (b * n + i) * D;
      if (t % K == 0) {
        std::copy_n(row, D, row_sum);
        if (next.data() != added.data()) std::copy_n(next.ptr<T>() + b * D, D, row_added);
      } else {
        for (int64_t j = 0; j < D; ++j) row_sum[j] += row[j];
      }
      if (t % K == K - 1)
        for (int64_t j = 0; j < D; ++j) mean.ptr<T>()[b * D + j] = row_sum[j] * factor;
      if (t < limit.ptr<int32_t>()[b])
        for (int64_t j = 0; j < D; ++j) row[j] += row_added[j];
    }
  }
}

void segment_mean_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor m) {
  with_runs(runs, [&](const auto& kind) { BG_FLOATS(x.dtype(), T, (sums<T, true>(ctx, x, kind, m))); });
}
void segment_mean_backward(const Ctx& ctx, Tensor dm, const Segments& runs, Tensor dx) {
  with_runs(runs, [&](const auto& kind) { BG_FLOATS(dx.dtype(), T, mean_backward<T>(ctx, dm, kind, dx)); });
}
void segment_add_forward(const Ctx& ctx, Tensor a, const Segments& runs, Tensor x) {
  with_runs(runs, [&](const auto& kind) { BG_FLOATS(x.dtype(), T, add_forward<T>(ctx, a, kind, x)); });
}
void segment_add_backward(const Ctx& ctx, Tensor dx, const Segments& runs, Tensor da) {
  with_runs(runs, [&](const auto& kind) { BG_FLOATS(dx.dtype(), T, (sums<T, false>(ctx, dx, kind, da))); });
}
void segment_pick_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor first) {
  const int64_t D = x.dim(2);
  with_runs(runs, [&](const auto& kind) {
    BG_FLOATS(x.dtype(), T, {
      const T* px = x.ptr<T>();
      T* po = first.ptr<T>();
      for_firsts(ctx, x.dim(0), runs.P, runs.T, kind, [=](int64_t n, int64_t from) {
        if (from < 0)
          std::fill_n(po + n * D, D, T(0));
        else
          std::copy_n(px + from * D, D, po + n * D);
      });
    });
  });
}
void segment_pick_backward(const Ctx& ctx, Tensor dfirst, const Segments& runs, Tensor dx) {
  const int64_t D = dx.dim(2);
  with_runs(runs, [&](const auto& kind) {
    BG_FLOATS(dx.dtype(), T, {
      const T* g = dfirst.ptr<T>();
      T* pdx = dx.ptr<T>();
      for_firsts(ctx, dx.dim(0), runs.P, runs.T, kind, [=](int64_t n, int64_t to) {
        for (int64_t i = 0; to >= 0 && i < D; ++i) pdx[to * D + i] += g[n * D + i];
      });
    });
  });
}
void segment_step(const Ctx&, Tensor x, Tensor at, Tensor limit, int64_t K, Tensor next, Tensor sum, Tensor mean,
                  Tensor added) {
  BG_FLOATS(x.dtype(), T, step<T>(x, at, limit, K, next, sum, mean, added));
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(segment_mean_forward)
BG_CPU_BODY(segment_mean_backward)
BG_CPU_BODY(segment_add_forward)
BG_CPU_BODY(segment_add_backward)
BG_CPU_BODY(segment_pick_forward)
BG_CPU_BODY(segment_pick_backward)
BG_CPU_BODY(segment_step)
}  // namespace bg::cpu
#endif
