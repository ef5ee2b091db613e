// Parts of float32 attention that forward and backward share, compiled once per instruction set.
// Everything is transposed: scores are kept as [key][query], a panel of tile_cols queries side by side, one per lane.
// So the softmax needs no sums across lanes, and the scores are the right-hand operand of the next product as they lie.
#include "kernels/cpu/attention_blocks.h"

// After what does not depend on the target:
#include "kernels/cpu/gemm-inl.h"
#include "kernels/cpu/vector-inl.h"

// Highway's own guard for headers that are compiled once per target.
#if defined(BG_KERNELS_CPU_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef BG_KERNELS_CPU_ATTENTION_INL_H_
#undef BG_KERNELS_CPU_ATTENTION_INL_H_
#else
#define BG_KERNELS_CPU_ATTENTION_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

constexpr int64_t kPanel = tile_cols<float>();  // queries in a panel
constexpr int64_t kLanes = kPanel / 2;
static_assert(kKeyBlock % kTileRows == 0);

HWY_INLINE int64_t tiles(int64_t n) {
  return (n + kTileRows - 1) / kTileRows;
}

/// dst[s / kTileRows][j][s % kTileRows] = src[s * row + j] for s < keys, j < d: rows as left-hand operand, depth d.
HWY_INLINE void pack_rows(const float* src, int64_t row, int64_t keys, int64_t d, float* dst) {
  for (int64_t s = 0; s < keys; s += kTileRows)
    pack_panel<kTileRows>(src + s * row, row, true, HWY_MIN(kTileRows, keys - s), d, dst + s * d);
}

/// dst[j / kTileRows][s][j % kTileRows] = src[s * row + j], s < keys <= kKeyBlock: columns as left-hand operand, depth
/// s.
HWY_INLINE void pack_columns(const float* src, int64_t row, int64_t keys, int64_t d, float* dst) {
  for (int64_t j = 0; j < d; j += kTileRows)
    pack_panel<kTileRows>(src + j, row, false, HWY_MIN(kTileRows, d - j), keys, dst + j * kKeyBlock);
}

/// dst[j][i] = factor * src[i * row + j] for i < queries, zero for the other lanes: a panel as right-hand operand.
HWY_INLINE void pack_queries(const float* src, int64_t row, int64_t queries, int64_t d, float factor, float* dst) {
  pack_panel<kPanel>(src, row, true, queries, d, dst);
  for (int64_t i = 0; i < d * kPanel; ++i) dst[i] *= factor;
}

/// dst[i * row + j] = src[j][i] * factor[i] for i < queries, j < d.
HWY_INLINE void unpack_queries(const float* HWY_RESTRICT src, int64_t queries, int64_t d,
                               const float* HWY_RESTRICT factor, float* HWY_RESTRICT dst, int64_t row) {
  const int64_t i4 = queries / 4 * 4, j4 = d / 4 * 4;
  for (int64_t j = 0; j < j4; j += 4)
    for (int64_t i = 0; i < i4; i += 4) transpose_block(src + j * kPanel + i, kPanel, dst + i * row + j, row);
  for (int64_t i = 0; i < queries; ++i) {
    float* out = dst + i * row;
    for (int64_t j = i < i4 ? j4 : 0; j < d; ++j) out[j] = src[j * kPanel + i];
    for (int64_t j = 0; j < d; ++j) out[j] *= factor[i];
  }
}

/// Which keys the queries t0 .. t0 + kPanel - 1 of a row see. Positions are exact in float: T < 2^24.
struct Visible {
  HWY_ALIGN float first[kPanel];  // of each lane
  int64_t t0, begin, end;         // keys begin .. end-1 hold all that any lane sees, begin at a tile's start
  int64_t all_from;               // from this key on every lane's window is open

  void set(const AttentionArgs& p, int64_t b, int64_t from) {
    t0 = from;
    begin = t0;
    all_from = 0;
    for (int64_t i = 0; i < kPanel; ++i) {
      const int64_t lo = p.first_key(b, HWY_MIN(t0 + i, p.T - 1));
      first[i] = static_cast<float>(lo);
      begin = HWY_MIN(begin, lo);
      all_from = HWY_MAX(all_from, lo);
    }
    begin = begin / kTileRows * kTileRows;
    end = HWY_MIN(t0 + kPanel, p.T);
  }
  bool masks(int64_t s0, int64_t s1) const { return s0 < all_from || s1 - 1 > t0; }
};

/// Sets scores of unseen keys to -infinity; s[r] belongs to key s0 + r.
HWY_INLINE void mask_scores(const Visible& see, int64_t s0, int64_t keys, float* s) {
  const hn::ScalableTag<float> d;
  const auto none = hn::Set(d, -HUGE_VALF);
  for (int64_t half = 0; half < kPanel; half += kLanes) {
    const auto first = hn::Load(d, see.first + half), self = hn::Iota(d, static_cast<float>(see.t0 + half));
    for (int64_t r = 0; r < keys; ++r) {
      float* row = s + r * kPanel + half;
      const auto key = hn::Set(d, static_cast<float>(s0 + r));
      hn::Store(hn::IfThenElse(hn::And(hn::Le(key, self), hn::Ge(key, first)), hn::Load(d, row), none), d, row);
    }
  }
}

/// out[r][i] = sum_j rows[r][j] * queries[j][i] for r < keys: rows packed by pack_rows, queries by pack_queries.
HWY_INLINE void scores(const float* rows, const float* queries, int64_t keys, int64_t d, float* out) {
  for (int64_t r = 0; r < keys; r += kTileRows)
    tile_any<float>(HWY_MIN(kTileRows, keys - r), d, rows + r * d, queries, out + r * kPanel, kPanel, kPanel, {1, 0});
}

/// out[j][i] += sum_s columns[s][j] * weights[s][i], j < d, s < keys: columns packed by pack_columns.
HWY_INLINE void add_weighted(const float* columns, const float* weights, int64_t keys, int64_t d, float* out) {
  for (int64_t j = 0; j < d; j += kTileRows)
    tile_any<float>(HWY_MIN(kTileRows, d - j), keys, columns + j * kKeyBlock, weights, out + j * kPanel, kPanel, kPanel,
                    {1, 1});
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
