// Matrix product: the operation that does most of the arithmetic of training.
#pragma once

#include <cstdint>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// A matrix as stored, or its transpose.
enum class Op : uint8_t { none, transpose };

/// C = alpha * op(A) op(B) + beta * C.  op(A) is (M, K), op(B) is (K, N), C is (M, N); float32 or float64, all three
/// alike; on CUDA float32, or A and B bfloat16 and C either of them (sums in float32, never tf32). The last dimension
/// of each is contiguous, the row stride is free. C must not overlap A or B; beta = 0 does not read C. K = 0 leaves
/// beta * C.
///
/// With the built-in library each element of C is summed in an order that depends on K alone: not on M, N, the row, the
/// number of threads or what else is in the batch. So a row's result has the same bits in any batch split. Other
/// libraries (Ctx::gemm_library, float32 only) are called by one thread per tile, tiles fixed by the shape: equal calls
/// give equal bits at any thread count, but they promise nothing about the batch split. Scratch: thread-local, grown
/// once: 512 * N elements on the calling thread, 64 Ki on each worker. Throws InvalidArgument when shapes, strides,
/// dtypes or devices disagree, or when the library asked for is not available.
/// Source of the blocking: Goto and van de Geijn 2008, doi:10.1145/1356052.1356053.
void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c);

/// C = alpha * op(A) op(B) + add; `add` is shaped and typed like C and may be C. Throws as gemm() does.
void gemm_add(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, Tensor add, Tensor c);

/// gemm() for a product that is known to be symmetric (M = N; beta * C symmetric too): half the arithmetic. Computes
/// the elements on and above the diagonal and copies them below it. Throws as gemm() does, and when C is not square.
void gemm_symmetric(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c);

/// y = x w^T + beta * y: a linear layer, x (N, K), w (O, K) stored [out, in], y (N, O).
inline void linear_forward(const Ctx& ctx, Tensor x, Tensor w, Tensor y, double beta = 0) {
  gemm(ctx, 1, x, Op::none, w, Op::transpose, beta, y);
}
/// y = add + x w^T: a linear layer whose output joins a stream. add may be y.
inline void linear_forward_add(const Ctx& ctx, Tensor x, Tensor w, Tensor add, Tensor y) {
  gemm_add(ctx, 1, x, Op::none, w, Op::transpose, add, y);
}
/// dx = dy w + beta * dx.
inline void linear_backward_input(const Ctx& ctx, Tensor dy, Tensor w, Tensor dx, double beta = 0) {
  gemm(ctx, 1, dy, Op::none, w, Op::none, beta, dx);
}
/// dw = dy^T x + beta * dw; by default it adds, as parameter gradients do.
inline void linear_backward_weight(const Ctx& ctx, Tensor x, Tensor dy, Tensor dw, double beta = 1) {
  gemm(ctx, 1, dy, Op::transpose, x, Op::none, beta, dw);
}

namespace cpu {
void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c);
void gemm_symmetric(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c);
}  // namespace cpu
}  // namespace bg
BG_CUDA_DECLARE(gemm)
BG_CUDA_DECLARE(gemm_add)
BG_CUDA_DECLARE(gemm_symmetric)
