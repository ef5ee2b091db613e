// Matrix products for other files under cuda/: many of one shape in one launch.
#pragma once

#include "kernels/gemm.h"

namespace bg::cuda {

/// C[i] = alpha * op(A[i]) op(B[i]) + beta * add[i] for each i: A, B, C, `add` (n, rows, columns), free strides between
/// matrices and rows. `add` may be C; beta = 0 does not read it. dtypes as for gemm(), `add` like C. How to multiply is
/// chosen for `planned` matrices (0: for n): a matrix then has the same bits in any part of that batch.
void gemm_batched(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor add, Tensor c,
                  int64_t planned = 0);

/// The same by the kernel that serves what cuBLASLt refuses: any size, any strides.
void gemm_plain(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor add, Tensor c);

}  // namespace bg::cuda
