// C = alpha * op(A) op(B) + beta * C on the CPU: packed panels, register tiles, a grid of tasks fixed by the shape.
#include "kernels/gemm.h"

#include <algorithm>

#include "base/scratch.h"

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
  constexpr int64_t W = tile_cols<T>();
  for (int64_t j = j0; j < j1; j += W, dst += depth * W) {
    const T* src = p.b_transposed ? p.b + j * p.ldb + k0 : p.b + k0 * p.ldb + j;
    pack_panel<W>(src, p.ldb, p.b_transposed, std::min(W, j1 - j), depth, dst);
  }
}

// Rows i0..i1-1, columns j0..j1-1 of C. packed_b holds all of B, blocks of k outermost, or is null: B is packed here.
template <class T>
void task(const Product<T>& p, int64_t i0, int64_t i1, int64_t j0, int64_t j1, const T* packed_b, T* a_panels,
          T* b_panel) {
  constexpr int64_t W = tile_cols<T>();
  const Depths depths(p.K);
  const int64_t padded_n = round_up(p.N, W);
  for (int64_t k0 = 0; k0 < p.K; k0 += depths.size) {
    const int64_t depth = std::min(depths.size, p.K - k0);
    for (int64_t i = i0; i < i1; i += kTileRows) {
      const T* src = p.a_transposed ? p.a + k0 * p.lda + i : p.a + i * p.lda + k0;
      pack_panel<kTileRows>(src, p.lda, !p.a_transposed, std::min(kTileRows, i1 - i), depth,
                            a_panels + (i - i0) * depth);
    }
    const Update<T> up{p.alpha, k0 == 0 ? p.beta : T(1)};
    for (int64_t j = j0; j < j1; j += W) {
      const T* b = b_panel;
      if (packed_b) {
        b = packed_b + k0 * padded_n + j * depth;
      } else {
        pack_b(p, k0, depth, j, std::min(j + W, j1), b_panel);
      }
      for (int64_t i = i0; i < i1; i += kTileRows) {
        tile_any<T>(std::min(kTileRows, i1 - i), depth, a_panels + (i - i0) * depth, b, p.c + i * p.ldc + j, p.ldc,
                    std::min(W, j1 - j), up);
      }
    }
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

  const bool serial = p.M * p.N * p.K <= kSerialWork;
  const auto each = [&](int64_t n, auto&& f) {
    if (serial) {
      for (int64_t i = 0; i < n; ++i) f(i);
    } else {
      pool.parallel_for(n, f);
    }
  };
  const T* packed_b = nullptr;
  if (row_tasks > 1) {  // several tasks share the panels of B: pack them once
    static thread_local Scratch b_scratch;
    const int64_t padded_n = round_up(p.N, W), stripe = round_up(kMinCols, W), stripes = ceil_div(p.N, stripe);
    T* dst = b_scratch.get<T>(static_cast<size_t>(padded_n * p.K));
    each(stripes * depths.count, [&](int64_t i) {
      const int64_t k0 = i / stripes * depths.size, depth = std::min(depths.size, p.K - k0), j0 = i % stripes * stripe;
      pack_b(p, k0, depth, j0, std::min(j0 + stripe, p.N), dst + k0 * padded_n + j0 * depth);
    });
    packed_b = dst;
  }
  const int64_t grid_rows = ceil_div(p.M, rows), grid_cols = ceil_div(p.N, cols);
  each(grid_rows * grid_cols, [&](int64_t i) {
    static thread_local Scratch scratch;
    const int64_t i0 = i / grid_cols * rows, j0 = i % grid_cols * cols;
    T* b_panel = scratch.get<T>(static_cast<size_t>((W + rows) * depths.size));  // first: aligned like a vector
    task(p, i0, std::min(i0 + rows, p.M), j0, std::min(j0 + cols, p.N), packed_b, b_panel + W * depths.size, b_panel);
  });
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
}  // namespace

void gemm(const Ctx& ctx, double alpha, Tensor a, Op op_a, Tensor b, Op op_b, double beta, Tensor c) {
  const bool ta = op_a == Op::transpose, tb = op_b == Op::transpose;
  const int64_t K = a.dim(ta ? 0 : 1);
  BG_FLOATS(c.dtype(), T, {
    const T al = static_cast<T>(alpha), be = static_cast<T>(beta);
    if (K == 0) return scale(c.ptr<T>(), c.dim(0), c.dim(1), c.stride(0), be);
    product(*ctx.pool, Product<T>{c.dim(0), c.dim(1), K, a.ptr<T>(), a.stride(0), ta, b.ptr<T>(), b.stride(0), tb,
                                  c.ptr<T>(), c.stride(0), al, be});
  });
}

}  // namespace bg::cpu
#endif
