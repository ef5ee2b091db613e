// One query a head over cached keys: float64 by the plain loops, float32 by the blocks of attention_forward.cpp with
// keys, or elements of values, in lanes instead of queries. Each sum is the same chain, hence the same bits.
#include "kernels/attention_cached.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

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
  int64_t whole = 0;
  for (; whole + L <= keys; whole += L)
    hn::StoreU(exp2_of(df, hn::Sub(hn::LoadU(df, s + whole), hn::Set(df, base))), df, s + whole);
  for (int64_t r = whole; r < keys; ++r) s[r] = hn::GetLane(exp2_of(df, hn::Set(df, s[r] - base)));
  float total = 0;
  for (int64_t r = 0; r < keys; ++r) total += s[r];
  sum = hn::GetLane(hn::MulAdd(hn::Set(df, sum), hn::Set(df, keep), hn::Set(df, total)));
  top = m;
  for (int64_t j = 0; j < d; ++j) out[j] *= keep;
}

// s[h * kKeyBlock + r] = sum_j query[j * kTileRows + h] * k[j * kCachePanel + r] for h < HEADS, r < kCachePanel: chains
// in order of j, two vectors of keys at a time.
template <int HEADS>
void score_panel(const float* HWY_RESTRICT k, const float* HWY_RESTRICT query, int64_t d, float* HWY_RESTRICT s) {
  const hn::ScalableTag<float> df;
  constexpr int64_t L = kLanes;
  for (int64_t r = 0; r < kCachePanel; r += 2 * L) {
    hn::Vec<decltype(df)> lo[HEADS], hi[HEADS];
    for (int h = 0; h < HEADS; ++h) lo[h] = hi[h] = hn::Zero(df);
    for (int64_t j = 0; j < d; ++j) {
      const auto k0 = hn::LoadU(df, k + j * kCachePanel + r), k1 = hn::LoadU(df, k + j * kCachePanel + r + L);
      for (int h = 0; h < HEADS; ++h) {
        const auto q = hn::Set(df, query[j * kTileRows + h]);
        lo[h] = hn::MulAdd(k0, q, lo[h]);
        hi[h] = hn::MulAdd(k1, q, hi[h]);
      }
    }
    for (int h = 0; h < HEADS; ++h) {
      hn::StoreU(lo[h], df, s + h * kKeyBlock + r);
      hn::StoreU(hi[h], df, s + h * kKeyBlock + r + L);
    }
  }
}

// part[h * d + j] = sum_r s[h * kKeyBlock + r] * v[r * d + j] for h < HEADS, in order of r. d is a vector at least: the
// last one may overlap the one before it.
template <int HEADS>
void weigh_values(const float* HWY_RESTRICT v, const float* HWY_RESTRICT s, int64_t keys, int64_t d,
                  float* HWY_RESTRICT part) {
  const hn::ScalableTag<float> df;
  constexpr int64_t L = kLanes;
  for (int64_t j = 0; j < d; j += 2 * L) {
    const int64_t j0 = std::min(j, d - L), j1 = std::min(j + L, d - L);
    hn::Vec<decltype(df)> lo[HEADS], hi[HEADS];
    for (int h = 0; h < HEADS; ++h) lo[h] = hi[h] = hn::Zero(df);
    for (int64_t r = 0; r < keys; ++r) {
      const auto v0 = hn::LoadU(df, v + r * d + j0), v1 = hn::LoadU(df, v + r * d + j1);
      for (int h = 0; h < HEADS; ++h) {
        const auto w = hn::Set(df, s[h * kKeyBlock + r]);
        lo[h] = hn::MulAdd(v0, w, lo[h]);
        hi[h] = hn::MulAdd(v1, w, hi[h]);
      }
    }
    for (int h = 0; h < HEADS; ++h) {
      hn::StoreU(lo[h], df, part + h * d + j0);
      hn::StoreU(hi[h], df, part + h * d + j1);
    }
  }
}

// Calls f(std::integral_constant<int, n>, h) for runs of n heads from h on, n at most four.
template <class F>
void for_heads(int64_t heads, F&& f) {
  int64_t h = 0;
  for (; h + 4 <= heads; h += 4) f(std::integral_constant<int, 4>(), h);
  if (heads - h >= 2) {
    f(std::integral_constant<int, 2>(), h);
    h += 2;
  }
  if (h < heads) f(std::integral_constant<int, 1>(), h);
}

// Heads h0 .. h0 + heads - 1 (at most kTileRows) of row b, which share keys and values.
void read_heads(const CachedArgs& p, int64_t b, int64_t h0, int64_t heads) {
  static thread_local Scratch scratch;
  const int64_t d = p.d, at = p.at[b], cache = (b * p.G + h0 / (p.H / p.G)) * p.S * d;
  const int64_t first = p.window ? std::max<int64_t>(p.first[b], at - p.window + 1) : p.first[b];
  const float *q = p.q + (b * p.H + h0) * d, *k = p.k + cache, *v = p.v + cache;
  float* out = p.y + (b * p.H + h0) * d;
  float* s = scratch.get<float>(static_cast<size_t>(kTileRows * (2 * d + kKeyBlock)));  // [head][key of the block]
  float* query = s + kTileRows * kKeyBlock;                                             // [j][head]
  float* part = query + kTileRows * d;                                                  // [head][j]
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
    const int64_t s0 = std::max(block, first), end = std::min(block + kKeyBlock, at + 1), keys = end - s0;
    for (int64_t panel = s0 / kCachePanel * kCachePanel; panel < end; panel += kCachePanel)
      for_heads(heads, [&](auto n, int64_t h) {
        score_panel<decltype(n)::value>(k + panel * d, query + h, d, s + h * kKeyBlock + panel - block);
      });
    for (int64_t h = 0; h < heads; ++h)
      softmax_keys(keys, d, s + h * kKeyBlock + s0 - block, top[h], sum[h], out + h * d);
    const float* weights = s + s0 - block;
    if (d >= kLanes) {
      for_heads(heads, [&](auto n, int64_t h) {
        weigh_values<decltype(n)::value>(v + s0 * d, weights + h * kKeyBlock, keys, d, part + h * d);
      });
    } else {
      const hn::ScalableTag<float> df;
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t j = 0; j < d; ++j) {
          auto chain = hn::Zero(df);
          for (int64_t r = 0; r < keys; ++r)
            chain = hn::MulAdd(hn::Set(df, v[(s0 + r) * d + j]), hn::Set(df, weights[h * kKeyBlock + r]), chain);
          part[h * d + j] = hn::GetLane(chain);
        }
    }
    for (int64_t j = 0; j < heads * d; ++j) out[j] += part[j];
  }
  for (int64_t h = 0; h < heads; ++h) {
    const float over = 1.0f / sum[h];
    for (int64_t j = 0; j < d; ++j) out[h * d + j] *= over;
  }
}

void cached(ThreadPool& pool, const CachedArgs& p) {
  static_assert(kKeyBlock % kCachePanel == 0 && kCachePanel % kPanel == 0, "panels end with their block");
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
  BG_FLOATS(k.dtype(), T, {
    for (int64_t b = 0; b < B; ++b) {
      const int64_t first = at.ptr<int32_t>()[b];
      for (int64_t i = 0; first >= 0 && i < n; ++i)
        for (int64_t g = 0; g < G; ++g) {
          const int64_t t = first + i, cache = (b * G + g) * S * d;
          const T* key = k.ptr<T>() + b * k.stride(0) + i * k.stride(1) + g * k.stride(2);
          std::copy_n(v.ptr<T>() + b * v.stride(0) + i * v.stride(1) + g * v.stride(2), d,
                      v_cache.ptr<T>() + cache + t * d);
          if (std::is_same_v<T, double>) {
            std::copy_n(key, d, k_cache.ptr<T>() + cache + t * d);
          } else {
            T* panel = k_cache.ptr<T>() + cache + t / kCachePanel * kCachePanel * d + t % kCachePanel;
            for (int64_t j = 0; j < d; ++j) panel[j * kCachePanel] = key[j];
          }
        }
    }
  });
}

}  // namespace bg::cpu
#endif
