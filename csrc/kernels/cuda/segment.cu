// Memory-bound copies and sums between positions and runs: a thread takes a few neighbouring channels of one row.
#include "kernels/segment.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// The three kinds of runs, so that equal ones are arithmetic alone. span(b, p): the positions of run p of row b;
// run(b, t): the run of position t, or -1; mean(sum, n): the mean of a run with n positions in the row.
struct Span {
  int64_t first, end;
};
struct WholeRuns {
  unsigned K, P;
  float factor;
  explicit WholeRuns(const Segments& s)
      : K(static_cast<unsigned>(s.K)), P(static_cast<unsigned>(s.P)), factor(1 / static_cast<float>(s.K)) {}
  __device__ Span span(unsigned, unsigned p) const { return {int64_t{p} * K, int64_t{p} * K + K}; }
  __device__ int run(unsigned, unsigned t) const { return t / K < P ? static_cast<int>(t / K) : -1; }
  __device__ float mean(float sum, int64_t) const { return sum * factor; }
};
struct LeadingRuns {
  unsigned K, lead, P;
  explicit LeadingRuns(const Segments& s)
      : K(static_cast<unsigned>(s.K)), lead(static_cast<unsigned>(s.lead)), P(static_cast<unsigned>(s.P)) {}
  __device__ Span span(unsigned, unsigned p) const {
    const int64_t first = int64_t{p} * K - lead;
    return {first < 0 ? 0 : first, first + K};
  }
  __device__ int run(unsigned, unsigned t) const {
    const unsigned p = (t + lead) / K;
    return p < P ? static_cast<int>(p) : -1;
  }
  __device__ float mean(float sum, int64_t) const { return sum / static_cast<float>(K); }
};
struct ListedRuns {
  const int32_t *start, *of;
  unsigned P, T;
  explicit ListedRuns(const Segments& s)
      : start(s.start.ptr<int32_t>()),
        of(s.of.ptr<int32_t>()),
        P(static_cast<unsigned>(s.P)),
        T(static_cast<unsigned>(s.T)) {}
  /// Up to the next run's start where all positions between are the run's; else its end is searched for, as they are
  /// the first ones.
  __device__ Span span(unsigned b, unsigned p) const {
    const int32_t *starts = start + int64_t{b} * P, *runs = of + int64_t{b} * T;
    const int first = starts[p], own = static_cast<int>(p);
    int low = first, high = p + 1 < P ? starts[p + 1] : static_cast<int>(T);
    if (low < high && runs[high - 1] == own) low = high;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (runs[middle] == own)
        low = middle + 1;
      else
        high = middle;
    }
    return {first, low};
  }
  __device__ int run(unsigned b, unsigned t) const { return of[int64_t{b} * T + t]; }
  __device__ float mean(float sum, int64_t n) const { return sum / static_cast<float>(n > 0 ? n : 1); }
};

// Calls f with the runs as what they are.
template <class F>
void with_runs(const Segments& s, F&& f) {
  BG_CHECK(s.T < (int64_t{1} << 30), "segments: a row of", s.T, "positions is too long for one launch");
  if (s.K == 0)
    f(ListedRuns(s));
  else if (s.lead == 0)
    f(WholeRuns(s));
  else
    f(LeadingRuns(s));
}

// An op writes one row of its output: Op::row<T, V>(from, runs, to, n, P, L, D), a warp or more a row.
template <class Op, class T, int V, class Runs>
__global__ void segment_kernel(const T* __restrict__ from, Runs runs, T* __restrict__ to, unsigned rows, unsigned P,
                               unsigned L, int64_t D) {
  const unsigned n = row_of_thread();
  if (n < rows) Op::template row<T, V>(from, runs, to, n, P, L, D);
}

// Op for the rows of `to` that it walks: B*P runs or B*T positions.
template <class Op>
void launch(const Ctx& ctx, Tensor from, const Segments& s, Tensor to, int64_t rows) {
  const int64_t D = from.dim(2);
  if (rows * D == 0) return;
  with_runs(s, [&](const auto& runs) {
    using Runs = std::decay_t<decltype(runs)>;
    BG_CUDA_FLOATS(from.dtype(), T, BG_VEC_WIDTH(whole_vecs<kIn16Bytes<T>>(D, from, to), kIn16Bytes<T>, V, {
                     const RowGrid at(rows, D / V);
                     BG_LAUNCH((segment_kernel<Op, T, V, Runs>), at.grid, at.block, 0, ctx, from.ptr<T>(), runs,
                               to.ptr<T>(), static_cast<unsigned>(rows), static_cast<unsigned>(s.P),
                               static_cast<unsigned>(s.T), D);
                   }));
  });
}

// Calls f(i) for the first channel of each group of V that the thread takes.
template <int V, class F>
__device__ __forceinline__ void for_channels(int64_t D, F&& f) {
  for (int64_t i = int64_t{threadIdx.x} * V; i < D; i += int64_t{blockDim.x} * V) f(i);
}
// to[0..V-1] += what stands at `from`.
template <class T, int V>
__device__ __forceinline__ void add_lanes(const T* from, T* to) {
  Vec<float, V> sum = load_floats<V>(to);
  const Vec<float, V> add = load_floats<V>(from);
#pragma unroll
  for (int j = 0; j < V; ++j) sum.v[j] += add.v[j];
  store_vec(to, sum);
}

// out[b,p] = sum of x[b,t] over run p, or the mean; rows are runs.
template <bool kMean>
struct Sums {
  template <class T, int V, class Runs>
  static __device__ void row(const T* __restrict__ x, const Runs& runs, T* __restrict__ out, unsigned n, unsigned P,
                             unsigned L, int64_t D) {
    const Span span = runs.span(n / P, n % P);
    const T* from = x + int64_t{n / P} * L * D;
    for_channels<V>(D, [&](int64_t i) {
      Vec<float, V> sum{};
      for (int64_t t = span.first; t < span.end; ++t) {
        const Vec<float, V> a = load_floats<V>(from + t * D + i);
#pragma unroll
        for (int j = 0; j < V; ++j) sum.v[j] += a.v[j];
      }
      if constexpr (kMean) {
#pragma unroll
        for (int j = 0; j < V; ++j) sum.v[j] = runs.mean(sum.v[j], span.end - span.first);
      }
      store_vec(out + n * D + i, sum);
    });
  }
};

// dx[b,t] = dm[b,p] / n, zero for a position without a run; rows are positions.
struct MeanBackward {
  template <class T, int V, class Runs>
  static __device__ void row(const T* __restrict__ dm, const Runs& runs, T* __restrict__ dx, unsigned n, unsigned P,
                             unsigned L, int64_t D) {
    const unsigned b = n / L;
    const int p = runs.run(b, n % L);
    int64_t size = 0;
    if (p >= 0) {
      const Span span = runs.span(b, static_cast<unsigned>(p));
      size = span.end - span.first;
    }
    const T* g = dm + (int64_t{b} * P + p) * D;
    for_channels<V>(D, [&](int64_t i) {
      Vec<float, V> x{};
      if (p >= 0) x = load_floats<V>(g + i);
#pragma unroll
      for (int j = 0; j < V; ++j) x.v[j] = runs.mean(x.v[j], size);
      store_vec(dx + n * D + i, x);
    });
  }
};

// x[b,t] += a[b,p]; rows are positions.
struct Add {
  template <class T, int V, class Runs>
  static __device__ void row(const T* __restrict__ a, const Runs& runs, T* __restrict__ x, unsigned n, unsigned P,
                             unsigned L, int64_t D) {
    const unsigned b = n / L;
    const int p = runs.run(b, n % L);
    if (p < 0) return;
    const T* from = a + (int64_t{b} * P + p) * D;
    for_channels<V>(D, [&](int64_t i) { add_lanes<T, V>(from + i, x + n * D + i); });
  }
};

// first[b,p] = x[b,t] of the run's first position, zero for an empty run; rows are runs.
struct Pick {
  template <class T, int V, class Runs>
  static __device__ void row(const T* __restrict__ x, const Runs& runs, T* __restrict__ first, unsigned n, unsigned P,
                             unsigned L, int64_t D) {
    const Span span = runs.span(n / P, n % P);
    const T* from = x + (int64_t{n / P} * L + span.first) * D;
    for_channels<V>(D, [&](int64_t i) {
      Vec<float, V> value{};
      if (span.first < span.end) value = load_floats<V>(from + i);
      store_vec(first + n * D + i, value);
    });
  }
};

// dx[b,t] += dfirst[b,p] for the run's first position, which no other run has; rows are runs.
struct PickBackward {
  template <class T, int V, class Runs>
  static __device__ void row(const T* __restrict__ dfirst, const Runs& runs, T* __restrict__ dx, unsigned n, unsigned P,
                             unsigned L, int64_t D) {
    const Span span = runs.span(n / P, n % P);
    if (span.first >= span.end) return;
    T* to = dx + (int64_t{n / P} * L + span.first) * D;
    for_channels<V>(D, [&](int64_t i) { add_lanes<T, V>(dfirst + n * D + i, to + i); });
  }
};

}  // namespace

void segment_mean_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor m) {
  launch<Sums<true>>(ctx, x, runs, m, m.dim(0) * runs.P);
}
void segment_mean_backward(const Ctx& ctx, Tensor dm, const Segments& runs, Tensor dx) {
  launch<MeanBackward>(ctx, dm, runs, dx, dx.dim(0) * runs.T);
}
void segment_add_forward(const Ctx& ctx, Tensor a, const Segments& runs, Tensor x) {
  launch<Add>(ctx, a, runs, x, x.dim(0) * runs.T);
}
void segment_add_backward(const Ctx& ctx, Tensor dx, const Segments& runs, Tensor da) {
  launch<Sums<false>>(ctx, dx, runs, da, da.dim(0) * runs.P);
}
void segment_pick_forward(const Ctx& ctx, Tensor x, const Segments& runs, Tensor first) {
  launch<Pick>(ctx, x, runs, first, first.dim(0) * runs.P);
}
void segment_pick_backward(const Ctx& ctx, Tensor dfirst, const Segments& runs, Tensor dx) {
  launch<PickBackward>(ctx, dfirst, runs, dx, dx.dim(0) * runs.P);
}

namespace {

// A thread takes one channel of one row through all its positions. next may be added: no __restrict__ here.
template <class T>
__global__ void segment_step_kernel(T* x, const int32_t* at, const int32_t* limit, int64_t n, int64_t D, int K,
                                    float factor, const T* next, float* sum, T* mean, T* added) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, b = blockIdx.y;
  const int first = at[b];
  if (i >= D || first < 0) return;
  const int64_t place = b * D + i;
  float total = sum[place];
  T add = added[place];
  for (int64_t step = 0; step < n; ++step) {
    const int t = first + static_cast<int>(step), inside = t % K;
    T* const to = x + (b * n + step) * D + i;
    const float value = to_float(*to);
    total = inside == 0 ? value : total + value;
    if (inside == 0) add = next[place];
    if (inside == K - 1) mean[place] = from_float<T>(total * factor);
    if (t < limit[b]) *to = from_float<T>(value + to_float(add));
  }
  sum[place] = total;
  added[place] = add;
}

}  // namespace

void segment_step(const Ctx& ctx, Tensor x, Tensor at, Tensor limit, int64_t K, Tensor next, Tensor sum, Tensor mean,
                  Tensor added) {
  const int64_t B = x.dim(0), n = x.dim(1), D = x.dim(2);
  if (B * D == 0) return;
  constexpr int kThreads = 128;
  const dim3 grid(static_cast<unsigned>(ceil_div(D, int64_t{kThreads})), static_cast<unsigned>(B));
  BG_CUDA_FLOATS(x.dtype(), T,
                 BG_LAUNCH(segment_step_kernel<T>, grid, kThreads, 0, ctx, x.ptr<T>(), at.ptr<int32_t>(),
                           limit.ptr<int32_t>(), n, D, static_cast<int>(K), 1 / static_cast<float>(K), next.ptr<T>(),
                           sum.ptr<float>(), mean.ptr<T>(), added.ptr<T>()));
}

}  // namespace bg::cuda
