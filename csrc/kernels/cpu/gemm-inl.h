// The inner parts of the matrix product, compiled once per instruction set: packing of panels and the register tile.
// Shared by gemm.cpp and attention.cpp; included from files that Highway's foreach_target.h compiles repeatedly.
#include "hwy/highway.h"

// Highway's own guard for headers that are compiled once per target.
#if defined(BG_KERNELS_CPU_GEMM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BG_KERNELS_CPU_GEMM_INL_H_
#undef BG_KERNELS_CPU_GEMM_INL_H_
#else
#define BG_KERNELS_CPU_GEMM_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The register tile: kTileRows rows by two vectors. 32 registers hold 24 sums, 2 vectors of B and a broadcast; 16 hold
// 12 sums.
constexpr int64_t kTileRows = HWY_TARGET <= HWY_AVX3 ? 12 : 6;
template <class T>
constexpr int64_t tile_cols() {
  return 2 * static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<T>()));
}

// 4 x 4 (float) or 2 x 2 (double) transpose through registers of 128 bits: dst[k * width + r] = src[r * ld + k].
HWY_INLINE void transpose_block(const float* HWY_RESTRICT src, int64_t ld, float* HWY_RESTRICT dst, int64_t width) {
  const hn::Full128<float> d;
  const hn::Full128<double> dd;
  const auto r0 = hn::LoadU(d, src), r1 = hn::LoadU(d, src + ld);
  const auto r2 = hn::LoadU(d, src + 2 * ld), r3 = hn::LoadU(d, src + 3 * ld);
  const auto a = hn::BitCast(dd, hn::InterleaveLower(d, r0, r1)), b = hn::BitCast(dd, hn::InterleaveLower(d, r2, r3));
  const auto e = hn::BitCast(dd, hn::InterleaveUpper(d, r0, r1)), f = hn::BitCast(dd, hn::InterleaveUpper(d, r2, r3));
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, a, b)), d, dst);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, a, b)), d, dst + width);
  hn::StoreU(hn::BitCast(d, hn::InterleaveLower(dd, e, f)), d, dst + 2 * width);
  hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(dd, e, f)), d, dst + 3 * width);
}
HWY_INLINE void transpose_block(const double* HWY_RESTRICT src, int64_t ld, double* HWY_RESTRICT dst, int64_t width) {
  const hn::Full128<double> d;
  const auto r0 = hn::LoadU(d, src), r1 = hn::LoadU(d, src + ld);
  hn::StoreU(hn::InterleaveLower(d, r0, r1), d, dst);
  hn::StoreU(hn::InterleaveUpper(d, r0, r1), d, dst + width);
}

/// Packs one panel: dst[k * W + r] = element (r, k) for r < rows, zero for rows <= r < W; k < depth.
/// along_depth: element (r, k) is src[r * ld + k]; else src[k * ld + r].
template <int64_t W, class T>
HWY_INLINE void pack_panel(const T* HWY_RESTRICT src, int64_t ld, bool along_depth, int64_t rows, int64_t depth,
                           T* HWY_RESTRICT dst) {
  constexpr int64_t S = 16 / sizeof(T);
  if (rows < W) {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t r = rows; r < W; ++r) dst[k * W + r] = T(0);
  }
  if (!along_depth) {
    if (rows == W) {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t r = 0; r < W; ++r) dst[k * W + r] = src[k * ld + r];
    } else {
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t r = 0; r < rows; ++r) dst[k * W + r] = src[k * ld + r];
    }
    return;
  }
  if (rows < S) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < depth; ++k) dst[k * W + r] = src[r * ld + k];
    return;
  }
  const int64_t whole = depth / S * S;
  constexpr int64_t kStep =
      64 / sizeof(T);  // a cache line of each row at a time, so that the panel is written in order
  for (int64_t k0 = 0; k0 < whole; k0 += kStep) {
    for (int64_t group = 0; group < rows; group += S) {
      const int64_t r = HWY_MIN(group, rows - S);  // the last group may overlap the one before it
      for (int64_t k = k0; k < HWY_MIN(k0 + kStep, whole); k += S)
        transpose_block(src + r * ld + k, ld, dst + k * W + r, W);
    }
  }
  for (int64_t k = whole; k < depth; ++k)
    for (int64_t i = 0; i < rows; ++i) dst[k * W + i] = src[i * ld + k];
}

/// pack_panel() for all panels of `rows` rows, one after the other, depth * W elements each.
template <int64_t W, class T>
HWY_INLINE void pack_panels(const T* src, int64_t ld, bool along_depth, int64_t rows, int64_t depth, T* dst) {
  if (along_depth) {
    for (int64_t r = 0; r < rows; r += W)
      pack_panel<W>(src + r * ld, ld, true, HWY_MIN(W, rows - r), depth, dst + r * depth);
    return;
  }
  // All panels a few k at a time: each row of the source is then read once, end to end.
  constexpr int64_t kStep = 16;
  for (int64_t k = 0; k < depth; k += kStep)
    for (int64_t r = 0; r < rows; r += W)
      pack_panel<W>(src + k * ld + r, ld, false, HWY_MIN(W, rows - r), HWY_MIN(kStep, depth - k),
                    dst + r * depth + k * W);
}

/// How a finished sum enters C: c = alpha * sum + beta * c.
template <class T>
struct Update {
  T alpha, beta;
};

/// c[r, j] = alpha * sum_k a[k * kTileRows + r] * b[k * tile_cols + j] + beta * c[r, j] for r < ROWS, j < cols.
/// Each sum is one chain of multiply-adds in order of k, whatever ROWS and cols are.
template <int ROWS, class T>
HWY_NOINLINE void tile(int64_t depth, const T* HWY_RESTRICT a, const T* HWY_RESTRICT b, T* HWY_RESTRICT c, int64_t ldc,
                       int64_t cols, Update<T> up) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int64_t L = tile_cols<T>() / 2;
  V lo[ROWS], hi[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) lo[r] = hi[r] = hn::Zero(d);
  for (int64_t k = 0; k < depth; ++k) {
    const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + L);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const V x = hn::Set(d, a[r]);
      lo[r] = hn::MulAdd(x, b0, lo[r]);
      hi[r] = hn::MulAdd(x, b1, hi[r]);
    }
    a += kTileRows;
    b += 2 * L;
  }
  const V alpha = hn::Set(d, up.alpha), beta = hn::Set(d, up.beta);
  if (cols == 2 * L) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      T* row = c + r * ldc;
      V x = hn::Mul(alpha, lo[r]), y = hn::Mul(alpha, hi[r]);
      if (up.beta != T(0)) {
        x = hn::MulAdd(beta, hn::LoadU(d, row), x);
        y = hn::MulAdd(beta, hn::LoadU(d, row + L), y);
      }
      hn::StoreU(x, d, row);
      hn::StoreU(y, d, row + L);
    }
    return;
  }
  // At the right edge through a buffer: some instruction sets have no loads and stores that stop inside a vector.
  HWY_ALIGN T edge[2 * L] = {};
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    T* row = c + r * ldc;
    V x = hn::Mul(alpha, lo[r]), y = hn::Mul(alpha, hi[r]);
    if (up.beta != T(0)) {
      for (int64_t j = 0; j < cols; ++j) edge[j] = row[j];
      x = hn::MulAdd(beta, hn::Load(d, edge), x);
      y = hn::MulAdd(beta, hn::Load(d, edge + L), y);
    }
    hn::Store(x, d, edge);
    hn::Store(y, d, edge + L);
    for (int64_t j = 0; j < cols; ++j) row[j] = edge[j];
  }
}

/// tile() for any rows <= kTileRows.
template <class T>
HWY_INLINE void tile_any(int64_t rows, int64_t depth, const T* a, const T* b, T* c, int64_t ldc, int64_t cols,
                         Update<T> up) {
  switch (rows) {
    case 1:
      return tile<1>(depth, a, b, c, ldc, cols, up);
    case 2:
      return tile<2>(depth, a, b, c, ldc, cols, up);
    case 3:
      return tile<3>(depth, a, b, c, ldc, cols, up);
    case 4:
      return tile<4>(depth, a, b, c, ldc, cols, up);
    case 5:
      return tile<5>(depth, a, b, c, ldc, cols, up);
    case 6:
      return tile<6>(depth, a, b, c, ldc, cols, up);
    default:
      break;
  }
  if constexpr (kTileRows > 6) {
    switch (rows) {
      case 7:
        return tile<7>(depth, a, b, c, ldc, cols, up);
      case 8:
        return tile<8>(depth, a, b, c, ldc, cols, up);
      case 9:
        return tile<9>(depth, a, b, c, ldc, cols, up);
      case 10:
        return tile<10>(depth, a, b, c, ldc, cols, up);
      case 11:
        return tile<11>(depth, a, b, c, ldc, cols, up);
      default:
        return tile<12>(depth, a, b, c, ldc, cols, up);
    }
  }
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
