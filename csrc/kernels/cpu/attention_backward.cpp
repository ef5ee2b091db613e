// Float32 attention, backward. One task per head and chunk of keys: it alone writes its sums of dk and dv, and one
// partial sum of dq; the sums over heads of a group and over chunks follow in fixed order. Scores are computed again
// from lse.
#include "kernels/cpu/attention_fast.h"

#include "base/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_backward.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

constexpr int64_t kQueryPanels = 4;  // panels of queries that share one visit of the keys
constexpr int64_t kQueryBlock = kQueryPanels * kPanel;

// The memory of one task, all 64-byte aligned pieces of one buffer.
struct Workspace {
  float *k_rows, *v_rows, *k_columns;  // the chunk's keys and values, packed
  float *dk, *dv;                      // [key][padded to whole panels]
  float *query, *dy;                   // panels [d][kPanel] of the query block
  float *query_rows, *dy_rows;         // [j / kPanel][query][kPanel]: right-hand operands of dk and dv
  float* dq;                           // panels [d][kPanel]
  float *weights, *ds;                 // panels [kKeyBlock][kPanel]
  float* flipped;                      // one tile of keys: [query][kTileRows]
  int64_t wide;                        // d padded to whole panels

  static int64_t size(int64_t d, int64_t keys) {
    const int64_t wide = (d + kPanel - 1) / kPanel * kPanel, padded_d = tiles(d) * kTileRows;
    return keys * (2 * d + padded_d + 2 * wide) + kQueryBlock * (3 * d + 2 * wide + 2 * kKeyBlock + kTileRows);
  }
  Workspace(float* m, int64_t d, int64_t keys) : wide((d + kPanel - 1) / kPanel * kPanel) {
    const auto take = [&m](int64_t n) { return (m += n) - n; };
    k_rows = take(keys * d);
    v_rows = take(keys * d);
    k_columns = take(keys * tiles(d) * kTileRows);
    dk = take(keys * wide);
    dv = take(keys * wide);
    query = take(kQueryBlock * d);
    dy = take(kQueryBlock * d);
    query_rows = take(kQueryBlock * wide);
    dy_rows = take(kQueryBlock * wide);
    dq = take(kQueryBlock * d);
    weights = take(kQueryBlock * kKeyBlock);
    ds = take(kQueryBlock * kKeyBlock);
    flipped = take(kQueryBlock * kTileRows);
  }
};

// Per query of a block: what turns scores into weights and their gradients.
struct QueryBlock {
  HWY_ALIGN float lse[kQueryBlock];    // in units of log 2; infinite past the end, so that weights are 0 there
  HWY_ALIGN float delta[kQueryBlock];  // dy . y
  Visible see[kQueryPanels];
  int64_t t0, queries, panels;
};

// dst[j / kPanel][i][j % kPanel] = src[i * row + j], zero for i >= queries and j >= d.
void pack_query_rows(const float* src, int64_t row, int64_t queries, int64_t d, float* dst) {
  for (int64_t j = 0; j < d; j += kPanel, dst += kQueryBlock * kPanel) {
    pack_panel<kPanel>(src + j, row, false, HWY_MIN(kPanel, d - j), queries, dst);
    for (int64_t i = queries * kPanel; i < kQueryBlock * kPanel; ++i) dst[i] = 0;
  }
}

void load_queries(const AttentionArgs& p, int64_t b, int64_t h, int64_t t0, Workspace& w, QueryBlock& block) {
  block.t0 = t0;
  block.queries = HWY_MIN(kQueryBlock, p.T - t0);
  block.panels = (block.queries + kPanel - 1) / kPanel;
  for (int64_t n = 0; n < block.panels; ++n) {
    const int64_t t = t0 + n * kPanel, queries = HWY_MIN(kPanel, p.T - t);
    pack_queries(p.q.at(b, t, h), p.q.row, queries, p.d, p.scale * kLog2e, w.query + n * kPanel * p.d);
    pack_queries(p.dy.at(b, t, h), p.dy.row, queries, p.d, 1, w.dy + n * kPanel * p.d);
  }
  pack_query_rows(p.q.at(b, t0, h), p.q.row, block.queries, p.d, w.query_rows);
  pack_query_rows(p.dy.at(b, t0, h), p.dy.row, block.queries, p.d, w.dy_rows);
  for (int64_t i = 0; i < kQueryBlock; ++i) {
    const int64_t t = t0 + i;
    block.lse[i] = t < p.T ? kLog2e * p.lse[(b * p.H + h) * p.T + t] : HUGE_VALF;
    block.delta[i] = t < p.T ? dot_of(p.dy.at(b, t, h), p.y.at(b, t, h), p.d) : 0;
  }
  for (int64_t i = 0; i < block.panels * kPanel * p.d; ++i) w.dq[i] = 0;
}

// weights = 2^(s - lse) in place;  ds = weights * (ds - delta), where ds holds dy . v.
HWY_INLINE void weights_and_gradients(const float* lse, const float* delta, int64_t keys, float* HWY_RESTRICT s,
                                      float* HWY_RESTRICT ds) {
  const hn::ScalableTag<float> d;
  for (int64_t half = 0; half < kPanel; half += kLanes) {
    const auto l = hn::Load(d, lse + half), mean = hn::Load(d, delta + half);
    for (int64_t r = half; r < keys * kPanel; r += kPanel) {
      const auto e = exp2_of(d, hn::Sub(hn::Load(d, s + r), l));
      hn::Store(e, d, s + r);
      hn::Store(hn::Mul(e, hn::Sub(hn::Load(d, ds + r), mean)), d, ds + r);
    }
  }
}

// sums[key][j] += sum over the panels' queries of weights[key][i] * rows[i][j], for one tile of keys.
void add_over_queries(const QueryBlock& block, int64_t key, int64_t rows, int64_t offset, int64_t d,
                      const float* weights, const float* query_rows, const Workspace& w, float* sums) {
  int64_t from = block.panels, to = 0;
  for (int64_t n = 0; n < block.panels; ++n) {
    if (key >= block.see[n].end || key + kTileRows <= block.see[n].begin) continue;
    from = HWY_MIN(from, n);
    to = n + 1;
  }
  if (from >= to) return;
  for (int64_t n = from; n < to; ++n) {
    float* dst = w.flipped + (n - from) * kPanel * kTileRows;
    const int64_t seen =
        HWY_MIN(rows, block.see[n].end - key);  // fewer rows than the tile were computed past the diagonal
    if (seen <= 0 || key + kTileRows <= block.see[n].begin) {
      for (int64_t i = 0; i < kPanel * kTileRows; ++i) dst[i] = 0;
    } else {
      pack_panel<kTileRows>(weights + (n * kKeyBlock + offset) * kPanel, kPanel, true, seen, kPanel, dst);
    }
  }
  for (int64_t j = 0; j < w.wide; j += kPanel)
    tile_any<float>(rows, (to - from) * kPanel, w.flipped, query_rows + j * kQueryBlock + from * kPanel * kPanel,
                    sums + j, w.wide, HWY_MIN(kPanel, d - j), {1, 1});
}

// All that the queries of `block` contribute through the keys s0 .. s1-1 of the chunk, s0 a multiple of kKeyBlock.
void key_block(const AttentionArgs& p, const QueryBlock& block, int64_t chunk0, int64_t s0, int64_t s1, Workspace& w) {
  const int64_t padded_d = tiles(p.d) * kTileRows;
  for (int64_t n = 0; n < block.panels; ++n) {
    const Visible& see = block.see[n];
    const int64_t a = HWY_MAX(s0, see.begin), keys = HWY_MIN(s1, see.end) - a;
    if (keys <= 0) continue;
    float* s = w.weights + (n * kKeyBlock + a - s0) * kPanel;
    float* ds = w.ds + (n * kKeyBlock + a - s0) * kPanel;
    scores(w.k_rows + (a - chunk0) * p.d, w.query + n * kPanel * p.d, keys, p.d, s);
    scores(w.v_rows + (a - chunk0) * p.d, w.dy + n * kPanel * p.d, keys, p.d, ds);
    if (see.masks(a, a + keys)) mask_scores(see, a, keys, s);
    weights_and_gradients(block.lse + n * kPanel, block.delta + n * kPanel, keys, s, ds);
    add_weighted(w.k_columns + (s0 - chunk0) * padded_d + (a - s0) * kTileRows, ds, keys, p.d, w.dq + n * kPanel * p.d);
  }
  for (int64_t key = s0; key < s1; key += kTileRows) {
    const int64_t rows = HWY_MIN(kTileRows, s1 - key), at = (key - chunk0) * w.wide;
    add_over_queries(block, key, rows, key - s0, p.d, w.weights, w.dy_rows, w, w.dv + at);
    add_over_queries(block, key, rows, key - s0, p.d, w.ds, w.query_rows, w, w.dk + at);
  }
}

// Head h, keys of chunk c. Writes dk, dv (B, H, T, d) of its keys and dq (B, H, T, d) of all queries from its first key
// on.
void backward_task(const AttentionArgs& p, int64_t b, int64_t h, int64_t c, float* dq, float* dk, float* dv) {
  static thread_local Scratch scratch;
  const KeyChunks chunks(p.T);
  const int64_t chunk0 = c * chunks.size, chunk1 = HWY_MIN(chunk0 + chunks.size, p.T),
                padded_d = tiles(p.d) * kTileRows;
  Workspace w(scratch.get<float>(static_cast<size_t>(Workspace::size(p.d, chunks.size))), p.d, chunks.size);
  for (int64_t s0 = chunk0; s0 < chunk1; s0 += kKeyBlock) {
    const int64_t keys = HWY_MIN(kKeyBlock, chunk1 - s0);
    const float *k = p.k.at(b, s0, p.group(h)), *v = p.v.at(b, s0, p.group(h));
    pack_rows(k, p.k.row, keys, p.d, w.k_rows + (s0 - chunk0) * p.d);
    pack_rows(v, p.v.row, keys, p.d, w.v_rows + (s0 - chunk0) * p.d);
    pack_columns(k, p.k.row, keys, p.d, w.k_columns + (s0 - chunk0) * padded_d);
  }
  for (int64_t i = 0; i < (chunk1 - chunk0) * w.wide; ++i) w.dk[i] = w.dv[i] = 0;

  float ones[kPanel];
  for (float& x : ones) x = p.scale;
  QueryBlock block;
  for (int64_t t0 = chunk0 / kQueryBlock * kQueryBlock; t0 < p.T; t0 += kQueryBlock) {
    load_queries(p, b, h, t0, w, block);
    int64_t first = p.T;
    for (int64_t n = 0; n < block.panels; ++n) {
      block.see[n].set(p, b, t0 + n * kPanel);
      first = HWY_MIN(first, block.see[n].begin);
    }
    const int64_t last = HWY_MIN(t0 + block.queries, chunk1);
    for (int64_t s0 = HWY_MAX(chunk0, first / kKeyBlock * kKeyBlock); s0 < last; s0 += kKeyBlock)
      key_block(p, block, chunk0, s0, HWY_MIN(s0 + kKeyBlock, chunk1), w);
    for (int64_t n = 0; n < block.panels; ++n) {
      const int64_t t = t0 + n * kPanel;
      unpack_queries(w.dq + n * kPanel * p.d, HWY_MIN(kPanel, p.T - t), p.d, ones, dq + t * p.d, p.d);
    }
  }
  for (int64_t s = chunk0; s < chunk1; ++s)
    for (int64_t j = 0; j < p.d; ++j) {
      dk[s * p.d + j] = p.scale * w.dk[(s - chunk0) * w.wide + j];
      dv[s * p.d + j] = w.dv[(s - chunk0) * w.wide + j];
    }
}

void backward(ThreadPool& pool, const AttentionArgs& p) {
  const KeyChunks chunks(p.T);
  const int64_t all = p.B * p.H * p.T * p.d;
  float *dk = p.scratch, *dv = dk + all, *dq = dv + all;
  pool.parallel_for(chunks.count * p.B * p.H, [&](int64_t i) {
    const int64_t c = i / (p.B * p.H), row = i % (p.B * p.H), at = row * p.T * p.d;
    backward_task(p, row / p.H, row % p.H, c, dq + c * all + at, dk + at, dv + at);
  });
  constexpr int64_t kRows = 64;  // positions a task
  const int64_t stripes = (p.T + kRows - 1) / kRows, per_group = p.H / p.G;
  pool.parallel_for(p.B * stripes, [&](int64_t i) {
    const int64_t b = i / stripes, t0 = i % stripes * kRows;
    for (int64_t t = t0; t < std::min(t0 + kRows, p.T); ++t) {
      for (int64_t g = 0; g < p.G; ++g) {
        float *to_k = p.dk.at(b, t, g), *to_v = p.dv.at(b, t, g);
        for (int64_t h = g * per_group; h < (g + 1) * per_group; ++h) {
          const int64_t at = ((b * p.H + h) * p.T + t) * p.d;
          const bool first = h == g * per_group;
          for (int64_t j = 0; j < p.d; ++j) {
            to_k[j] = (first ? 0 : to_k[j]) + dk[at + j];
            to_v[j] = (first ? 0 : to_v[j]) + dv[at + j];
          }
        }
      }
      const int64_t seen = std::min(t / chunks.size + 1, chunks.count);  // later chunks hold no key of this query
      for (int64_t h = 0; h < p.H; ++h) {
        const int64_t at = ((b * p.H + h) * p.T + t) * p.d;
        float* to = p.dq.at(b, t, h);
        for (int64_t j = 0; j < p.d; ++j) to[j] = dq[at + j];
        for (int64_t c = 1; c < seen; ++c)
          for (int64_t j = 0; j < p.d; ++j) to[j] += dq[c * all + at + j];
      }
    }
  });
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
HWY_EXPORT(backward);
void attention_backward_fast(ThreadPool& pool, const AttentionArgs& args) {
  HWY_DYNAMIC_DISPATCH(backward)(pool, args);
}
}  // namespace bg::cpu
#endif
