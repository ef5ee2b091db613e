// One query a head over cached keys: float64 by the plain loops, float32 by the blocks, panels and sums in the order of
// attention_forward.cpp, with keys in lanes instead of queries. Each sum is the same chain, hence the same bits.
#include "kernels/attention_cached.h"

#include <algorithm>
#include <cmath>

#include "base/scratch.h"
#include "kernels/cpu/attention_loops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention_cached.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h:
#include "kernels/cpu/attention-inl.h"

#ifndef BG_KERNELS_CPU_ATTENTION_CACHED_ONCE_
#define BG_KERNELS_CPU_ATTENTION_CACHED_ONCE_
namespace bg::cpu {
namespace {

struct CachedArgs {
  int64_t B, H, G, S, d, window;
  const int32_t *at, *first;
  const float *q, *k, *v;
  float* y;
  float scale;  // 1/sqrt(d)
};

}  // namespace
}  // namespace bg::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {

// Scores s (keys) of one head become weights 2^(s - top); its running maximum, sum and out (d) move along.
void softmax_keys(int64_t keys, int64_t d, float* HWY_RESTRICT s, float& top, float& sum, float* HWY_RESTRICT out) {
  const hn::ScalableTag<float> df;
  const int64_t L = static_cast<int64_t>(hn::Lanes(df));
  float m = top;
  for (int64_t r = 0; r < keys; ++r) m = s[r] > m ? s[r] : m;
  const float base = m == -HUGE_VALF ? 0.0f : m;
  const float keep = hn::GetLane(exp2_of(df, hn::Set(df, top - base)));
  // Behind the last key s holds whatever a panel left there; it is not summed.
  for (int64_t r = 0; r < keys; r += L)
    hn::StoreU(exp2_of(df, hn::Sub(hn::LoadU(df, s + r), hn::Set(df, base))), df, s + r);
  float total = 0;
  for (int64_t r = 0; r < keys; ++r) total += s[r];
  sum = hn::GetLane(hn::MulAdd(hn::Set(df, sum), hn::Set(df, keep), hn::Set(df, total)));
  top = m;
  for (int64_t j = 0; j < d; ++j) out[j] *= keep;
}

// Heads h0 .. h0 + heads - 1 (at most a tile's height) of row b, which share keys and values.
void read_heads(const CachedArgs& p, int64_t b, int64_t h0, int64_t heads) {
  static thread_local Scratch scratch;
  const int64_t d = p.d, at = p.at[b], cache = (b * p.G + h0 / (p.H / p.G)) * p.S * d;
  const int64_t first = p.window ? std::max<int64_t>(p.first[b], at - p.window + 1) : p.first[b];
  const float *q = p.q + (b * p.H + h0) * d, *k = p.k + cache, *v = p.v + cache;
  float* out = p.y + (b * p.H + h0) * d;
  // Panels first: they are aligned like vectors.
  float* panel =
      scratch.get<float>(static_cast<size_t>(std::max(d, kKeyBlock) * kPanel + kTileRows * (d + 2 * kKeyBlock)));
  float* s = panel + std::max(d, kKeyBlock) * kPanel;  // [head][key]
  float* weights = s + kTileRows * kKeyBlock;          // [key][head]
  float* query = weights + kTileRows * kKeyBlock;      // [j][head]
  float top[kTileRows], sum[kTileRows];
  const float factor = p.scale * kLog2e;
  for (int64_t h = 0; h < heads; ++h) {
    top[h] = -HUGE_VALF;
    sum[h] = 0;
    for (int64_t j = 0; j < d; ++j) {
      query[j * kTileRows + h] = q[h * d + j] * factor;
      out[h * d + j] = 0;
    }
  }
  for (int64_t block = first / kKeyBlock * kKeyBlock; block <= at; block += kKeyBlock) {
    const int64_t s0 = std::max(block, first), keys = std::min(block + kKeyBlock, at + 1) - s0;
    for (int64_t r = 0; r < keys; r += kPanel) {
      const int64_t rows = std::min(kPanel, keys - r);
      pack_panel<kPanel>(k + (s0 + r) * d, d, true, rows, d, panel);
      tile_any<float>(heads, d, query, panel, s + r, kKeyBlock, kPanel, {1, 0});
    }
    for (int64_t h = 0; h < heads; ++h) {
      softmax_keys(keys, d, s + h * kKeyBlock, top[h], sum[h], out + h * d);
      for (int64_t r = 0; r < keys; ++r) weights[r * kTileRows + h] = s[h * kKeyBlock + r];
    }
    for (int64_t j = 0; j < d; j += kPanel) {
      const int64_t columns = std::min(kPanel, d - j);
      pack_panel<kPanel>(v + s0 * d + j, d, false, columns, keys, panel);
      tile_any<float>(heads, keys, weights, panel, out + j, d, columns, {1, 1});
    }
  }
  for (int64_t h = 0; h < heads; ++h) {
    const float over = 1.0f / sum[h];
    for (int64_t j = 0; j < d; ++j) out[h * d + j] *= over;
  }
}

void cached(ThreadPool& pool, const CachedArgs& p) {
  static_assert(kKeyBlock % kPanel == 0, "a panel of keys never passes the end of its block");
  const int64_t per_group = p.H / p.G, parts = tiles(per_group);
  pool.parallel_for(p.B * p.G * parts, [&](int64_t i) {
    const int64_t b = i / (p.G * parts), g = i / parts % p.G, from = i % parts * kTileRows;
    const int64_t h0 = g * per_group + from, heads = std::min(kTileRows, per_group - from);
    if (p.at[b] < 0)
      std::fill_n(p.y + (b * p.H + h0) * p.d, heads * p.d, 0.0f);
    else
      read_heads(p, b, h0, heads);
  });
}

}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
HWY_EXPORT(cached);

void attention_cached(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first, int64_t window,
                      Tensor y) {
  if (q.dtype() == DType::f64) return attention_cached_loops<double>(ctx, q, k_cache, v_cache, at, first, window, y);
  CachedArgs p{};
  p.B = q.dim(0);
  p.H = q.dim(1);
  p.d = q.dim(2);
  p.G = k_cache.dim(1);
  p.S = k_cache.dim(2);
  p.window = window;
  p.at = at.ptr<int32_t>();
  p.first = first.ptr<int32_t>();
  p.q = q.ptr<float>();
  p.k = k_cache.ptr<float>();
  p.v = v_cache.ptr<float>();
  p.y = y.ptr<float>();
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(p.d)));
  HWY_DYNAMIC_DISPATCH(cached)(*ctx.pool, p);
}

void cache_append(const Ctx&, Tensor k, Tensor v, Tensor at, Tensor k_cache, Tensor v_cache) {
  const int64_t B = k.dim(0), n = k.dim(1), G = k.dim(2), d = k.dim(3), S = k_cache.dim(2);
  const auto copy = [&](auto type, const Tensor& from, const Tensor& to) {
    using T = decltype(type);
    for (int64_t b = 0; b < B; ++b) {
      const int64_t t = at.ptr<int32_t>()[b];
      for (int64_t i = 0; t >= 0 && i < n; ++i)
        for (int64_t g = 0; g < G; ++g)
          std::copy_n(from.ptr<T>() + b * from.stride(0) + i * from.stride(1) + g * from.stride(2), d,
                      to.ptr<T>() + ((b * G + g) * S + t + i) * d);
    }
  };
  BG_FLOATS(k.dtype(), T, {
    copy(T(), k, k_cache);
    copy(T(), v, v_cache);
  });
}

}  // namespace bg::cpu
#endif
