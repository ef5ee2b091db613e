// Losses on latents. Sums over rows: a fixed number of blocks leave partial sums in scratch memory, a small kernel adds
// them in order.
#include "kernels/latent_loss.h"

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

constexpr double kSmallestStd = 1e-6;
constexpr int kSumThreads = 1024;

// out = factor * sum of x, one block.
__global__ void sum_kernel(const double* __restrict__ x, int64_t n, double factor, double* __restrict__ out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = factor * sum;
}

}  // namespace

void sum_f64(const Ctx& ctx, Tensor x, Tensor out) {
  BG_LAUNCH(sum_kernel, 1, kSumThreads, 0, ctx, x.ptr<double>(), x.numel(), 1.0, out.ptr<double>());
}

namespace {

constexpr int64_t kMseBlocks = 264;

// partial[block] = sum of (a - b)^2 over the elements of a block.
template <class T>
__global__ void mse_kernel(const T* __restrict__ a, const T* __restrict__ b, int64_t n, double* __restrict__ partial) {
  double sum = 0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const double d = static_cast<double>(to_float(a[i])) - static_cast<double>(to_float(b[i]));
    sum += d * d;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// da = 2 scale weight (a - b) / n.
template <class T>
__global__ void mse_backward_kernel(const T* __restrict__ a, const T* __restrict__ b, int64_t n, double scale,
                                    const double* __restrict__ weight, T* __restrict__ da) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const float factor = static_cast<float>(2 * scale * *weight / static_cast<double>(n));
  if (i < n) da[i] = from_float<T>(factor * (to_float(a[i]) - to_float(b[i])));
}

}  // namespace

void mse_forward(const Ctx& ctx, Tensor a, Tensor b, Tensor out) {
  const int64_t n = a.numel(), blocks = std::min(kMseBlocks, ceil_div(n, int64_t{256}));
  double* partial = static_cast<double*>(ctx.cuda->scratch(static_cast<size_t>(blocks) * sizeof(double)));
  BG_CUDA_FLOATS(a.dtype(), T, {
    BG_LAUNCH(mse_kernel<T>, static_cast<unsigned>(blocks), 256, 0, ctx, a.ptr<T>(), b.ptr<T>(), n, partial);
  });
  BG_LAUNCH(sum_kernel, 1, 256, 0, ctx, partial, blocks, 1 / static_cast<double>(n), out.ptr<double>());
}
void mse_backward(const Ctx& ctx, Tensor a, Tensor b, double scale, Tensor weight, Tensor da) {
  const int64_t n = a.numel();
  if (n == 0) return;
  BG_CUDA_FLOATS(a.dtype(), T, {
    BG_LAUNCH(mse_backward_kernel<T>, static_cast<unsigned>(ceil_div(n, int64_t{256})), 256, 0, ctx, a.ptr<T>(),
              b.ptr<T>(), n, scale, weight.ptr<double>(), da.ptr<T>());
  });
}

namespace {

// Column statistics: a block takes 32 columns, a warp every 8th row of the block's part.
constexpr int kRowLanes = 8;
constexpr int64_t kStatParts = 64;

struct ColumnGrid {
  dim3 grid, block{32, kRowLanes};
  int64_t parts;
  ColumnGrid(int64_t rows, int64_t columns, int64_t most_parts)
      : parts(std::min(most_parts, ceil_div(rows, int64_t{kRowLanes}))) {
    grid = dim3(static_cast<unsigned>(ceil_div(columns, int64_t{32})), static_cast<unsigned>(parts));
  }
};

// partial[part] = (sum, second sum) of each column: of z' = z - z[0] and z'^2, or of dy and dy * y.
template <class T, bool kBackward>
__global__ void column_sums_kernel(const T* __restrict__ x, const T* __restrict__ y, int64_t R, int64_t L,
                                   double* __restrict__ partial) {
  __shared__ double sums[2][kRowLanes][32];
  const int64_t i = int64_t{blockIdx.x} * 32 + threadIdx.x;
  double first = 0, second = 0;
  if (i < L) {
    const double zero = kBackward ? 0 : static_cast<double>(to_float(x[i]));
    for (int64_t r = int64_t{blockIdx.y} * kRowLanes + threadIdx.y; r < R; r += int64_t{gridDim.y} * kRowLanes) {
      const double v = static_cast<double>(to_float(x[r * L + i])) - zero;
      first += v;
      second += kBackward ? v * static_cast<double>(to_float(y[r * L + i])) : v * v;
    }
  }
  sums[0][threadIdx.y][threadIdx.x] = first;
  sums[1][threadIdx.y][threadIdx.x] = second;
  __syncthreads();
  if (threadIdx.y >= 2 || i >= L) return;
  double sum = 0;
#pragma unroll
  for (int k = 0; k < kRowLanes; ++k) sum += sums[threadIdx.y][k][threadIdx.x];
  partial[(int64_t{blockIdx.y} * 2 + threadIdx.y) * L + i] = sum;
}

// std and, for the rows, facts = (mean, 1 / std).
template <class T>
__global__ void standard_facts_kernel(const double* __restrict__ partial, const T* __restrict__ z, int64_t R, int64_t L,
                                      int64_t parts, float* __restrict__ std, float* __restrict__ facts) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= L) return;
  double sum = 0, square = 0;
  for (int64_t part = 0; part < parts; ++part) {
    sum += partial[part * 2 * L + i];
    square += partial[(part * 2 + 1) * L + i];
  }
  const double rows = static_cast<double>(R);
  const double deviation = sqrt(fmax(square - sum * sum / rows, 0.0) / (rows - 1));
  std[i] = static_cast<float>(deviation);
  facts[i] = static_cast<float>(static_cast<double>(to_float(z[i])) + sum / rows);
  facts[L + i] = static_cast<float>(1 / fmax(deviation, kSmallestStd));
}

// y = (z - mean) / std.
template <class T>
__global__ void standardise_kernel(const T* __restrict__ z, const float* __restrict__ facts, int64_t R, int64_t L,
                                   T* __restrict__ y) {
  const int64_t r = row_of_thread();
  if (r >= R) return;
  for (int64_t i = threadIdx.x; i < L; i += blockDim.x)
    y[r * L + i] = from_float<T>((to_float(z[r * L + i]) - facts[i]) * facts[L + i]);
}

// facts = (mean dy, sum(dy y) / (R-1) where std is above the floor, 1 / std).
__global__ void standard_backward_facts_kernel(const double* __restrict__ partial, const float* __restrict__ std,
                                               int64_t R, int64_t L, int64_t parts, float* __restrict__ facts) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= L) return;
  double sum = 0, along = 0;
  for (int64_t part = 0; part < parts; ++part) {
    sum += partial[part * 2 * L + i];
    along += partial[(part * 2 + 1) * L + i];
  }
  const double s = static_cast<double>(std[i]);
  facts[i] = static_cast<float>(sum / static_cast<double>(R));
  facts[L + i] = s > kSmallestStd ? static_cast<float>(along / static_cast<double>(R - 1)) : 0;
  facts[2 * L + i] = static_cast<float>(1 / fmax(s, kSmallestStd));
}

// dz = (dy - mean(dy) - y * sum(dy y) / (R-1)) / std.
template <class T>
__global__ void standardise_backward_kernel(const T* __restrict__ y, const T* dy, const float* __restrict__ facts,
                                            int64_t R, int64_t L, bool add, T* dz) {
  const int64_t r = row_of_thread();
  if (r >= R) return;
  for (int64_t i = threadIdx.x; i < L; i += blockDim.x) {
    const int64_t at = r * L + i;
    const float d = (to_float(dy[at]) - facts[i] - facts[L + i] * to_float(y[at])) * facts[2 * L + i];
    dz[at] = from_float<T>(add ? to_float(dz[at]) + d : d);
  }
}

constexpr int kFactThreads = 64;

}  // namespace

void standardise_forward(const Ctx& ctx, Tensor z, Tensor y, Tensor std) {
  const int64_t R = z.dim(0), L = z.dim(1);
  if (L == 0) return;
  const ColumnGrid columns(R, L, kStatParts);
  const RowGrid rows(R, L);
  double* partial = static_cast<double*>(
      ctx.cuda->scratch(static_cast<size_t>(columns.parts * 2 * L) * sizeof(double) + 2 * L * sizeof(float)));
  float* facts = reinterpret_cast<float*>(partial + columns.parts * 2 * L);
  BG_CUDA_FLOATS(z.dtype(), T, {
    BG_LAUNCH((column_sums_kernel<T, false>), columns.grid, columns.block, 0, ctx, z.ptr<T>(), z.ptr<T>(), R, L,
              partial);
    BG_LAUNCH(standard_facts_kernel<T>, static_cast<unsigned>(ceil_div(L, int64_t{kFactThreads})), kFactThreads, 0, ctx,
              partial, z.ptr<T>(), R, L, columns.parts, std.ptr<float>(), facts);
    BG_LAUNCH(standardise_kernel<T>, rows.grid, rows.block, 0, ctx, z.ptr<T>(), facts, R, L, y.ptr<T>());
  });
}
void standardise_backward(const Ctx& ctx, Tensor y, Tensor std, Tensor dy, Tensor dz, Write write) {
  const int64_t R = y.dim(0), L = y.dim(1);
  if (R * L == 0) return;
  const ColumnGrid columns(R, L, kStatParts);
  const RowGrid rows(R, L);
  double* partial = static_cast<double*>(
      ctx.cuda->scratch(static_cast<size_t>(columns.parts * 2 * L) * sizeof(double) + 3 * L * sizeof(float)));
  float* facts = reinterpret_cast<float*>(partial + columns.parts * 2 * L);
  BG_CUDA_FLOATS(y.dtype(), T, {
    BG_LAUNCH((column_sums_kernel<T, true>), columns.grid, columns.block, 0, ctx, dy.ptr<T>(), y.ptr<T>(), R, L,
              partial);
    BG_LAUNCH(standard_backward_facts_kernel, static_cast<unsigned>(ceil_div(L, int64_t{kFactThreads})), kFactThreads,
              0, ctx, partial, std.ptr<float>(), R, L, columns.parts, facts);
    BG_LAUNCH(standardise_backward_kernel<T>, rows.grid, rows.block, 0, ctx, y.ptr<T>(), dy.ptr<T>(), facts, R, L,
              write == Write::add, dz.ptr<T>());
  });
}

namespace {

// Points t_k and what a normal's characteristic function is there.
constexpr int kPoints = static_cast<int>(kSigregPoints);
constexpr double kFirstPoint = 0.2, kPointStep = 0.175;
constexpr int64_t kSigregParts = 48;

__device__ __forceinline__ double point(int64_t k) {
  return kFirstPoint + kPointStep * static_cast<double>(k);
}
__device__ __forceinline__ double normal_at(int64_t k) {
  return exp(-point(k) * point(k) / 2);
}

// cos and sin of t_k p for k = 0, 1, ...: one angle, then turns by the step.
struct Turns {
  float c, s, dc, ds;
  __device__ __forceinline__ explicit Turns(float p) {
    sincosf(static_cast<float>(kFirstPoint) * p, &s, &c);
    sincosf(static_cast<float>(kPointStep) * p, &ds, &dc);
  }
  __device__ __forceinline__ void turn() {
    const float next = c * dc - s * ds;
    s = s * dc + c * ds;
    c = next;
  }
};

// partial[part, k, j] = sum over the part's rows of cos (k < 17) and sin (17 + k) of t_k p[r,j].
template <class T>
__global__ __launch_bounds__(256) void sigreg_sums_kernel(const T* __restrict__ p, int64_t R, int64_t P,
                                                          double* __restrict__ partial) {
  __shared__ float sums[kRowLanes][2 * kPoints][32];
  const int64_t j = int64_t{blockIdx.x} * 32 + threadIdx.x;
  float c[kPoints] = {}, s[kPoints] = {};
  if (j < P)
    for (int64_t r = int64_t{blockIdx.y} * kRowLanes + threadIdx.y; r < R; r += int64_t{gridDim.y} * kRowLanes) {
      Turns turns(to_float(p[r * P + j]));
#pragma unroll
      for (int k = 0; k < kPoints; ++k, turns.turn()) {
        c[k] += turns.c;
        s[k] += turns.s;
      }
    }
#pragma unroll
  for (int k = 0; k < kPoints; ++k) {
    sums[threadIdx.y][k][threadIdx.x] = c[k];
    sums[threadIdx.y][kPoints + k][threadIdx.x] = s[k];
  }
  __syncthreads();
  if (j >= P) return;
  for (int k = threadIdx.y; k < 2 * kPoints; k += kRowLanes) {
    double sum = 0;
#pragma unroll
    for (int row = 0; row < kRowLanes; ++row) sum += static_cast<double>(sums[row][k][threadIdx.x]);
    partial[(int64_t{blockIdx.y} * 2 * kPoints + k) * P + j] = sum;
  }
}

// means[cos or sin, j, k] from the parts, in order.
__global__ void sigreg_means_kernel(const double* __restrict__ partial, int64_t parts, int64_t R, int64_t P,
                                    double* __restrict__ means) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= 2 * kPoints * P) return;
  double sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += partial[part * 2 * kPoints * P + at];
  const int64_t k = at / P, j = at % P;
  means[k < kPoints ? j * kPoints + k : (P + j) * kPoints + k - kPoints] = sum / static_cast<double>(R);
}

// The mean square of what the means lie off, one block.
__global__ void sigreg_loss_kernel(const double* __restrict__ means, int64_t n, double* __restrict__ out) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double d = means[i] - normal_at(i % kPoints), s = means[n + i];
    sum += d * d + s * s;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum / static_cast<double>(n);
}

// factors[k, j] of sin (k < 17) and of cos (17 + k) in dp.
__global__ void sigreg_factors_kernel(const double* __restrict__ means, int64_t R, int64_t P, double scale,
                                      const double* __restrict__ weight, float* __restrict__ factors) {
  const int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, n = P * kPoints;
  if (at >= n) return;
  const int64_t k = at / P, j = at % P;
  const double factor = 2 * scale * *weight / (static_cast<double>(n) * static_cast<double>(R)) * point(k);
  factors[k * P + j] = static_cast<float>(-factor * (means[j * kPoints + k] - normal_at(k)));
  factors[(kPoints + k) * P + j] = static_cast<float>(factor * means[n + j * kPoints + k]);
}

// dp[r,j] = sum over k of a[k,j] sin(t_k p) + b[k,j] cos(t_k p).
template <class T>
__global__ __launch_bounds__(256) void sigreg_backward_kernel(const T* __restrict__ p,
                                                              const float* __restrict__ factors, int64_t R, int64_t P,
                                                              T* __restrict__ dp) {
  const int64_t j = int64_t{blockIdx.x} * 32 + threadIdx.x;
  if (j >= P) return;
  float a[kPoints], b[kPoints];
#pragma unroll
  for (int k = 0; k < kPoints; ++k) {
    a[k] = factors[k * P + j];
    b[k] = factors[(kPoints + k) * P + j];
  }
  for (int64_t r = int64_t{blockIdx.y} * kRowLanes + threadIdx.y; r < R; r += int64_t{gridDim.y} * kRowLanes) {
    Turns turns(to_float(p[r * P + j]));
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kPoints; ++k, turns.turn()) sum += a[k] * turns.s + b[k] * turns.c;
    dp[r * P + j] = from_float<T>(sum);
  }
}

}  // namespace

void sigreg_forward(const Ctx& ctx, Tensor p, Tensor means, Tensor out) {
  const int64_t R = p.dim(0), P = p.dim(1), values = 2 * kPoints * P;
  BG_CHECK(R > 0 && P > 0, "sigreg of", p.shape().str());
  const int64_t room = static_cast<int64_t>(Context::kScratchBytes / sizeof(double)) / values;
  const ColumnGrid columns(R, P, std::clamp<int64_t>(room, 1, kSigregParts));
  double* partial =
      static_cast<double*>(ctx.cuda->scratch(static_cast<size_t>(columns.parts * values) * sizeof(double)));
  BG_CUDA_FLOATS(p.dtype(), T,
                 { BG_LAUNCH(sigreg_sums_kernel<T>, columns.grid, columns.block, 0, ctx, p.ptr<T>(), R, P, partial); });
  BG_LAUNCH(sigreg_means_kernel, static_cast<unsigned>(ceil_div(values, int64_t{64})), 64, 0, ctx, partial,
            columns.parts, R, P, means.ptr<double>());
  BG_LAUNCH(sigreg_loss_kernel, 1, kSumThreads, 0, ctx, means.ptr<double>(), P * kPoints, out.ptr<double>());
}
void sigreg_backward(const Ctx& ctx, Tensor p, Tensor means, double scale, Tensor weight, Tensor dp) {
  const int64_t R = p.dim(0), P = p.dim(1), values = kPoints * P;
  if (R * P == 0) return;
  const ColumnGrid columns(R, P, kSigregParts);
  float* factors = static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(2 * values) * sizeof(float)));
  BG_LAUNCH(sigreg_factors_kernel, static_cast<unsigned>(ceil_div(values, int64_t{128})), 128, 0, ctx,
            means.ptr<double>(), R, P, scale, weight.ptr<double>(), factors);
  BG_CUDA_FLOATS(p.dtype(), T, {
    BG_LAUNCH(sigreg_backward_kernel<T>, columns.grid, columns.block, 0, ctx, p.ptr<T>(), factors, R, P, dp.ptr<T>());
  });
}

}  // namespace bg::cuda
