#include "kernels/gemm.h"

#include <cstring>

namespace bg {
namespace {

void check_matrix(const char* name, const Tensor& t) {
  BG_CHECK(t.rank() == 2, "gemm:", name, "must be a matrix, got shape", t.shape().str());
  BG_CHECK(t.dim(1) <= 1 || t.stride(1) == 1, "gemm: the last dimension of", name, "must be contiguous, its stride is",
           t.stride(1));
  BG_CHECK(t.dim(0) <= 1 || t.stride(0) >= t.dim(1), "gemm: rows of", name, "overlap: stride", t.stride(0), "for shape",
           t.shape().str());
}

void check(const Tensor& a, Op op_a, const Tensor& b, Op op_b, const Tensor& c) {
  check_matrix("A", a);
  check_matrix("B", b);
  check_matrix("C", c);
  const bool widened = a.dtype() == DType::bf16 && c.dtype() == DType::f32;
  BG_CHECK(a.dtype() == b.dtype() && (a.dtype() == c.dtype() || widened),
           "gemm: dtypes of A, B, C:", name_of(a.dtype()), name_of(b.dtype()), name_of(c.dtype()));
  BG_CHECK(a.device() == c.device() && b.device() == c.device(), "gemm: A, B and C must be on one device");
  const bool ta = op_a == Op::transpose, tb = op_b == Op::transpose;
  BG_CHECK(a.dim(ta ? 1 : 0) == c.dim(0), "gemm: rows of op(A) and C:", a.dim(ta ? 1 : 0), c.dim(0));
  BG_CHECK(b.dim(tb ? 0 : 1) == c.dim(1), "gemm: columns of op(B) and C:", b.dim(tb ? 0 : 1), c.dim(1));
  BG_CHECK(a.dim(ta ? 0 : 1) == b.dim(tb ? 1 : 0), "gemm: columns of op(A) and rows of op(B):", a.dim(ta ? 0 : 1),
           b.dim(tb ? 1 : 0));
}

}  // namespace

void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  check(a, op_a, b, op_b, c);
  if (c.numel() == 0) return;
  BG_DISPATCH(c.device(), gemm(ctx, alpha, a, op_a, b, op_b, beta, c));
}

namespace cpu {
void gemm_add(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, Tensor add, Tensor c) {
  if (add.data() != c.data())
    for (int64_t i = 0; i < c.dim(0); ++i)
      std::memcpy(c.slice(0, i, i + 1).data(), add.slice(0, i, i + 1).data(),
                  static_cast<size_t>(c.dim(1)) * size_of(c.dtype()));
  cpu::gemm(ctx, alpha, a, op_a, b, op_b, 1, c);
}
}  // namespace cpu

void gemm_add(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, Tensor add, Tensor c) {
  check(a, op_a, b, op_b, c);
  check_matrix("add", add);
  BG_CHECK(add.shape() == c.shape() && add.dtype() == c.dtype() && add.device() == c.device(),
           "gemm: what is added has shape", add.shape().str(), "C has", c.shape().str());
  if (c.numel() == 0) return;
  BG_DISPATCH(c.device(), gemm_add(ctx, alpha, a, op_a, b, op_b, add, c));
}

void gemm_symmetric(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  check(a, op_a, b, op_b, c);
  BG_CHECK(c.dim(0) == c.dim(1), "gemm: a symmetric product is square, got", c.shape().str());
  if (c.numel() == 0) return;
  BG_DISPATCH(c.device(), gemm_symmetric(ctx, alpha, a, op_a, b, op_b, beta, c));
}

}  // namespace bg
