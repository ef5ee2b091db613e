// Float32 attention, forward: for each panel of queries, blocks of keys with a running maximum and sum.
#include "kernels/cpu/attention_fast.h"

#include <cmath>

#include "base/scratch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_forward.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

// Turns scores into weights 2^(s - top) and moves the running maximum `top`, the sum and out (d, kPanel) along.
void softmax_block(int64_t keys, int64_t d, float* HWY_RESTRICT s, float* HWY_RESTRICT top, float* HWY_RESTRICT sum,
                   float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> df;
  for (int64_t half = 0; half < kPanel; half += kLanes) {
    const auto old = hn::Load(df, top + half);
    auto m = old;
    for (int64_t r = 0; r < keys; ++r) m = hn::Max(m, hn::Load(df, s + r * kPanel + half));
    // A lane that has seen nothing yet keeps -infinity; its weights must become 2^-infinity = 0, not NaN.
    const auto base = hn::IfThenElse(hn::Eq(m, hn::Set(df, -HUGE_VALF)), hn::Zero(df), m);
    const auto keep = exp2_of(df, hn::Sub(old, base));
    auto total = hn::Zero(df);
    for (int64_t r = 0; r < keys; ++r) {
      float* row = s + r * kPanel + half;
      const auto e = exp2_of(df, hn::Sub(hn::Load(df, row), base));
      total = hn::Add(total, e);
      hn::Store(e, df, row);
    }
    hn::Store(hn::MulAdd(hn::Load(df, sum + half), keep, total), df, sum + half);
    hn::Store(m, df, top + half);
    for (int64_t j = 0; j < d; ++j) {
      float* o = out + j * kPanel + half;
      hn::Store(hn::Mul(hn::Load(df, o), keep), df, o);
    }
  }
}

void forward_panel(const AttentionArgs& p, int64_t b, int64_t h, int64_t t0, const float* k_rows,
                   const float* v_columns, float* memory) {
  HWY_ALIGN float top[kPanel], sum[kPanel];
  float* query = memory;
  float* out = query + p.d * kPanel;
  float* s = out + p.d * kPanel;
  const int64_t queries = HWY_MIN(kPanel, p.T - t0), padded_d = tiles(p.d) * kTileRows;
  pack_queries(p.q.at(b, t0, h), p.q.row, queries, p.d, p.scale * kLog2e, query);
  for (int64_t i = 0; i < kPanel; ++i) {
    top[i] = -HUGE_VALF;
    sum[i] = 0;
  }
  for (int64_t i = 0; i < p.d * kPanel; ++i) out[i] = 0;
  Visible see;
  see.set(p, b, t0);
  for (int64_t block = see.begin / kKeyBlock * kKeyBlock; block < see.end; block += kKeyBlock) {
    const int64_t s0 = HWY_MAX(block, see.begin), keys = HWY_MIN(block + kKeyBlock, see.end) - s0;
    scores(k_rows + s0 * p.d, query, keys, p.d, s);
    if (see.masks(s0, s0 + keys)) mask_scores(see, s0, keys, s);
    softmax_block(keys, p.d, s, top, sum, out);
    add_weighted(v_columns + block * padded_d + (s0 - block) * kTileRows, s, keys, p.d, out);
  }
  float* lse = p.lse + (b * p.H + h) * p.T + t0;
  for (int64_t i = 0; i < queries; ++i) {
    lse[i] = static_cast<float>(kLn2 * (static_cast<double>(top[i]) + std::log2(static_cast<double>(sum[i]))));
    sum[i] = 1.0f / sum[i];
  }
  unpack_queries(out, queries, p.d, sum, p.y.at(b, t0, h), p.y.row);
}

void forward(ThreadPool& pool, const AttentionArgs& p) {
  static thread_local Scratch shared;
  const int64_t blocks = (p.T + kKeyBlock - 1) / kKeyBlock, padded_t = blocks * kKeyBlock;
  const int64_t padded_d = tiles(p.d) * kTileRows, panels = (p.T + kPanel - 1) / kPanel;
  float* k_rows = shared.get<float>(static_cast<size_t>(p.B * p.G * padded_t * (p.d + padded_d)));
  float* v_columns = k_rows + p.B * p.G * padded_t * p.d;
  pool.parallel_for(p.B * p.G * blocks, [&](int64_t i) {
    const int64_t row = i / blocks, b = row / p.G, g = row % p.G, s0 = i % blocks * kKeyBlock;
    const int64_t keys = std::min(kKeyBlock, p.T - s0);
    pack_rows(p.k.at(b, s0, g), p.k.row, keys, p.d, k_rows + (row * padded_t + s0) * p.d);
    pack_columns(p.v.at(b, s0, g), p.v.row, keys, p.d, v_columns + (row * padded_t + s0) * padded_d);
  });
  pool.parallel_for(p.B * p.H * panels, [&](int64_t i) {
    static thread_local Scratch scratch;
    float* memory = scratch.get<float>(static_cast<size_t>((2 * p.d + kKeyBlock) * kPanel));
    const int64_t panel = panels - 1 - i / (p.B * p.H);  // late panels see most keys: start with them
    const int64_t b = i % (p.B * p.H) / p.H, h = i % p.H, row = b * p.G + p.group(h);
    forward_panel(p, b, h, panel * kPanel, k_rows + row * padded_t * p.d, v_columns + row * padded_t * padded_d,
                  memory);
  });
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
HWY_EXPORT(forward);
void attention_forward_fast(ThreadPool& pool, const AttentionArgs& args) {
  HWY_DYNAMIC_DISPATCH(forward)(pool, args);
}
}  // namespace bg::cpu
#endif
