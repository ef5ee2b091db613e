// C = alpha * op(A) op(B) + beta * C on the CPU: packed panels, register tiles, a grid of tasks fixed by the shape.
#include "kernels/gemm.h"

#include <algorithm>

#include "base/scratch.h"
#include "kernels/gemm_library.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/gemm-inl.h"

#ifndef BG_KERNELS_CPU_GEMM_ONCE_
#define BG_KERNELS_CPU_GEMM_ONCE_
namespace bg::cpu {
namespace {

// One product with everything checked. Element (m, k) of op(A) is a[m * lda + k], or a[k * lda + m] when transposed.
template <class T>
struct Product {
  int64_t M, N, K;
  const T* a;
  int64_t lda;
  bool a_transposed;
  const T* b;
  int64_t ldb;
  bool b_transposed;
  T* c;
  int64_t ldc;
  T alpha, beta;
  bool upper;  // leave out tiles below the diagonal
};

constexpr int64_t kDepth = 512;     // at most this many k in one pass: panels of A stay in L1, a block of A in L2
constexpr int64_t kBlockRows = 96;  // rows of C in one task, a multiple of every tile height
constexpr int64_t kMinTasks = 16;   // below this the columns are split too
constexpr int64_t kMinCols = 128;   // columns of C in one task are not fewer
constexpr int64_t kSerialWork = 64 * 64 * 64;  // multiply-adds below which waking threads costs more than it saves

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
inline int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

}  // namespace
}  // namespace bg::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

// The passes over k: blocks of equal size, by K alone.
struct Depths {
  int64_t count, size;
  explicit Depths(int64_t K) : count(ceil_div(K, kDepth)), size(ceil_div(K, count)) {}
};

// Panels of B for one block of k, columns j0..j1-1 (j0 a multiple of the tile width).
template <class T>
void pack_b(const Product<T>& p, int64_t k0, int64_t depth, int64_t j0, int64_t j1, T* dst) {
  const T* src = p.b_transposed ? p.b + j0 * p.ldb + k0 : p.b + k0 * p.ldb + j0;
  pack_panels<tile_cols<T>()>(src, p.ldb, p.b_transposed, j1 - j0, depth, dst);
}

// Panels of A for one block of k, rows i0..i1-1.
template <class T>
void pack_a(const Product<T>& p, int64_t k0, int64_t depth, int64_t i0, int64_t i1, T* dst) {
  const T* src = p.a_transposed ? p.a + k0 * p.lda + i0 : p.a + i0 * p.lda + k0;
  pack_panels<kTileRows>(src, p.lda, !p.a_transposed, i1 - i0, depth, dst);
}

// Adds the block k0 .. k0+depth-1 of the sums to rows i0..i1-1, columns j0..j1-1 of C. packed_a: those rows' panels.
// packed_b: the panels of all of B, or null: then they are packed here, one at a time, into b_panel.
template <class T>
void task(const Product<T>& p, int64_t k0, int64_t depth, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
          const T* packed_a, const T* packed_b, T* b_panel) {
  constexpr int64_t W = tile_cols<T>();
  const Update<T> up{p.alpha, k0 == 0 ? p.beta : T(1)};
  for (int64_t j = j0; j < j1; j += W) {
    const T* b = packed_b ? packed_b + j * depth : b_panel;
    if (!packed_b) pack_b(p, k0, depth, j, std::min(j + W, j1), b_panel);
    for (int64_t i = i0; i < i1 && !(p.upper && i >= j + W); i += kTileRows)
      tile_any<T>(std::min(kTileRows, i1 - i), depth, packed_a + (i - i0) * depth, b, p.c + i * p.ldc + j, p.ldc,
                  std::min(W, j1 - j), up);
  }
}

template <class T>
void product(ThreadPool& pool, const Product<T>& p) {
  constexpr int64_t W = tile_cols<T>();
  const Depths depths(p.K);
  const int64_t row_tasks = ceil_div(p.M, kBlockRows);
  const int64_t rows = round_up(ceil_div(p.M, row_tasks), kTileRows);
  const int64_t col_tasks = std::max<int64_t>(1, std::min(ceil_div(kMinTasks, row_tasks), p.N / kMinCols));
  const int64_t cols = round_up(ceil_div(p.N, col_tasks), W);
  const int64_t grid_rows = ceil_div(p.M, rows), grid_cols = ceil_div(p.N, cols);
  const int64_t stripe = round_up(kMinCols, W);

  const bool serial = p.M * p.N * p.K <= kSerialWork;
  const auto each = [&](int64_t n, auto&& f) {
    if (serial) {
      for (int64_t i = 0; i < n; ++i) f(i);
    } else {
      pool.parallel_for(n, f);
    }
  };
  // Panels that several tasks read are packed once, before them: B's for several rows of tasks, A's for several
  // columns.
  static thread_local Scratch shared;
  const bool share_a = grid_cols > 1, share_b = grid_rows > 1;
  const int64_t size_b = share_b ? round_up(p.N, W) * depths.size : 0,
                size_a = share_a ? grid_rows * rows * depths.size : 0;
  T* all_b = shared.get<T>(static_cast<size_t>(size_b + size_a));  // B first: aligned like a vector
  T* all_a = all_b + size_b;
  const int64_t parts_b = share_b ? ceil_div(p.N, stripe) : 0, parts_a = share_a ? grid_rows : 0;
  for (int64_t k0 = 0; k0 < p.K; k0 += depths.size) {
    const int64_t depth = std::min(depths.size, p.K - k0);
    each(parts_b + parts_a, [&](int64_t i) {
      if (i < parts_b) {
        pack_b(p, k0, depth, i * stripe, std::min((i + 1) * stripe, p.N), all_b + i * stripe * depth);
      } else {
        const int64_t i0 = (i - parts_b) * rows;
        pack_a(p, k0, depth, i0, std::min(i0 + rows, p.M), all_a + i0 * depth);
      }
    });
    each(grid_rows * grid_cols, [&](int64_t i) {
      static thread_local Scratch scratch;
      const int64_t i0 = i / grid_cols * rows, i1 = std::min(i0 + rows, p.M), j0 = i % grid_cols * cols;
      if (p.upper && i0 >= j0 + cols) return;
      T* b_panel = scratch.get<T>(static_cast<size_t>((W + rows) * depth));
      T* own_a = b_panel + W * depth;
      if (!share_a) pack_a(p, k0, depth, i0, i1, own_a);
      task<T>(p, k0, depth, i0, i1, j0, std::min(j0 + cols, p.N), share_a ? all_a + i0 * depth : own_a,
              share_b ? all_b : nullptr, b_panel);
    });
  }
}

void product_f32(ThreadPool& pool, const Product<float>& p) {
  product(pool, p);
}
void product_f64(ThreadPool& pool, const Product<double>& p) {
  product(pool, p);
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
namespace {
HWY_EXPORT(product_f32);
HWY_EXPORT(product_f64);
void product(ThreadPool& pool, const Product<float>& p) {
  HWY_DYNAMIC_DISPATCH(product_f32)(pool, p);
}
void product(ThreadPool& pool, const Product<double>& p) {
  HWY_DYNAMIC_DISPATCH(product_f64)(pool, p);
}

template <class T>
void scale(T* c, int64_t rows, int64_t cols, int64_t ld, T beta) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) c[i * ld + j] = beta == T(0) ? T(0) : beta * c[i * ld + j];
}

template <class T>
Product<T> product_of(double alpha, const Tensor& a, bool ta, const Tensor& b, bool tb, double beta, const Tensor& c) {
  return {c.dim(0),
          c.dim(1),
          a.dim(ta ? 0 : 1),
          a.ptr<T>(),
          a.stride(0),
          ta,
          b.ptr<T>(),
          b.stride(0),
          tb,
          c.ptr<T>(),
          c.stride(0),
          static_cast<T>(alpha),
          static_cast<T>(beta),
          false};
}

// c[j][i] = c[i][j] for i < j, in square blocks so that both sides stay in cache.
template <class T>
void mirror(ThreadPool& pool, T* c, int64_t n, int64_t ld) {
  constexpr int64_t kSide = 32;
  const auto stripe = [&](int64_t block) {
    const int64_t i0 = block * kSide, i1 = std::min(i0 + kSide, n);
    for (int64_t j0 = i0; j0 < n; j0 += kSide)
      for (int64_t j = j0; j < std::min(j0 + kSide, n); ++j)
        for (int64_t i = i0; i < std::min(i1, j); ++i) c[j * ld + i] = c[i * ld + j];
  };
  pool.parallel_for(ceil_div(n, kSide), stripe);
}

}  // namespace

void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  const bool ta = op_a == Op::transpose, tb = op_b == Op::transpose;
  const int64_t K = a.dim(ta ? 0 : 1);
  if (ctx.gemm_library != GemmLibrary::builtin && c.dtype() == DType::f32 && K > 0)
    return library_gemm(ctx, static_cast<float>(alpha), a, ta, b, tb, static_cast<float>(beta), c);
  BG_FLOATS(c.dtype(), T, {
    if (K == 0) return scale(c.ptr<T>(), c.dim(0), c.dim(1), c.stride(0), static_cast<T>(beta));
    product(*ctx.pool, product_of<T>(alpha, a, ta, b, tb, beta, c));
  });
}

void gemm_symmetric(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  const bool ta = op_a == Op::transpose, tb = op_b == Op::transpose;
  if (a.dim(ta ? 0 : 1) == 0) return cpu::gemm(ctx, alpha, a, op_a, b, op_b, beta, c);
  BG_FLOATS(c.dtype(), T, {
    Product<T> p = product_of<T>(alpha, a, ta, b, tb, beta, c);
    p.upper = true;
    product(*ctx.pool, p);
    mirror(*ctx.pool, c.ptr<T>(), c.dim(0), c.stride(0));
  });
}

}  // namespace bg::cpu
#endif
