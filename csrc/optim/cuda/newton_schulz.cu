// Newton-Schulz on the GPU: three batched products per iteration,
//   A = X X^T (or X^T X),  S = kC A A + kB A,  X <- S X + kA X (or X S + kA X),
// each adding its second term while it writes the product.
#include "optim/cuda/newton_schulz.cuh"

#include <algorithm>
#include <utility>

#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/update.cuh"

namespace bg::cuda {
namespace {

// to = g / (|g|_F + 1e-7)
template <class T>
__global__ void normalise_kernel(const T* g, int64_t n, const double* __restrict__ partial, int64_t partials, T* to) {
  const double factor = 1 / (sqrt(sum_in_order(partial, partials)) + kNewtonSchulzEps);
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x)
    to[i] = from_float<T>(static_cast<float>(static_cast<double>(to_float(g[i])) * factor));
}

// One matrix as a batch of one.
Tensor alone(Tensor matrix) {
  return matrix.reshape({1, matrix.dim(0), matrix.dim(1)});
}

}  // namespace

Tensor newton_schulz_iterate(const Ctx& ctx, int64_t steps, Tensor x, Tensor other, Tensor a, Tensor s,
                             int64_t planned) {
  const bool tall = x.dim(1) > x.dim(2);
  for (int64_t step = 0; step < steps; ++step) {
    if (tall)
      gemm_batched(ctx, 1, x, Op::transpose, x, Op::none, 0, a, a, planned);
    else
      gemm_batched(ctx, 1, x, Op::none, x, Op::transpose, 0, a, a, planned);
    gemm_batched(ctx, kNewtonSchulzC, a, Op::none, a, Op::none, kNewtonSchulzB, a, s, planned);
    if (tall)
      gemm_batched(ctx, 1, x, Op::none, s, Op::none, kNewtonSchulzA, x, other, planned);
    else
      gemm_batched(ctx, 1, s, Op::none, x, Op::none, kNewtonSchulzA, x, other, planned);
    std::swap(x, other);
  }
  return x;
}

void newton_schulz(const Ctx& ctx, Tensor g, int64_t steps, Tensor scratch, Tensor out) {
  const int64_t rows = g.dim(0), cols = g.dim(1), m = std::min(rows, cols), n = rows * cols;
  const auto padded = [](int64_t k) { return (k + 15) / 16 * 16; };
  const Tensor other = scratch.slice(0, 0, n).reshape({rows, cols});
  const int64_t first = padded(n), second = first + padded(m * m);
  const Tensor a = scratch.slice(0, first, first + m * m).reshape({1, m, m});
  const Tensor s = scratch.slice(0, second, second + m * m).reshape({1, m, m});
  const bool even = steps % 2 == 0;  // the last step writes `out`
  const Tensor x = even ? out : other, next = even ? other : out;

  const int64_t partials = update_blocks(n);
  double* const partial = static_cast<double*>(ctx.cuda->scratch(static_cast<size_t>(partials) * sizeof(double)));
  enqueue_squares(ctx, g, partial);
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(ceil_div(n, int64_t{1024}), 1024));
  BG_CUDA_FLOATS(g.dtype(), T,
                 BG_LAUNCH(normalise_kernel<T>, blocks, 256, 0, ctx, g.ptr<T>(), n, partial, partials, x.ptr<T>()));
  newton_schulz_iterate(ctx, steps, alone(x), alone(next), a, s, 1);
}

}  // namespace bg::cuda
