#include "kernels/attention_cached.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/attention.h"
#include "testing/tensors.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

struct Sizes {
  int64_t H, G, S, d, window;
  std::vector<int32_t> at, first;
  int64_t B() const { return static_cast<int64_t>(at.size()); }
  std::string str() const { return words("H", H, "G", G, "S", S, "d", d, "window", window, "rows", B()); }
};

std::vector<Sizes> sizes() {
  return {
      {1, 1, 32, 1, 0, {0}, {0}},
      {2, 1, 32, 6, 0, {3, -1, 11, 0}, {0, 0, 5, 0}},
      {4, 2, 224, 64, 0, {95, 96, 97, 199}, {0, 0, 0, 150}},
      {8, 4, 320, 64, 100, {299, 40, 100}, {0, 0, 3}},
      {3, 3, 96, 5, 7, {69, 33}, {68, 0}},
      {26, 2, 160, 20, 0, {129, 7}, {1, 0}},  // more heads in a group than a tile is high
      {2, 2, 608, 33, 0, {599, 255}, {0, 0}},
      {2, 1, 512, 160, 0, {499, -1}, {10, 0}},  // heads wider than a block of threads
  };
}

// Keys and values (B,S,G,d) as positions have them, and the caches that they fill.
struct Operands {
  Owned q, keys, values, at, first, k, v;
  Operands(const Sizes& z, const Ctx& ctx, DType rounded = DType::f32)
      : q(Owned::normal(ctx.dtype, {z.B(), z.H, z.d}, z.str() + "q", 1.5, 0, rounded)),
        keys(Owned::normal(ctx.dtype, {z.B(), z.S, z.G, z.d}, z.str() + "k", 1, 0, rounded)),
        values(Owned::normal(ctx.dtype, {z.B(), z.S, z.G, z.d}, z.str() + "v", 1, 0, rounded)),
        at(Owned::ids({z.B()}, z.at)),
        first(Owned::ids({z.B()}, z.first)),
        k(Owned(ctx.dtype, {z.B(), z.G, z.S, z.d}).to(ctx)),
        v(Owned(ctx.dtype, {z.B(), z.G, z.S, z.d}).to(ctx)) {
    const Owned from = Owned::ids({z.B()}, std::vector<int32_t>(static_cast<size_t>(z.B()), 0)).to(ctx);
    cache_append(ctx, keys.to(ctx), values.to(ctx), from, k, v);
  }
};

// The definition in float64, from operands on the CPU.
std::vector<double> definition(const Sizes& z, const Operands& o) {
  std::vector<double> y;
  for (int64_t b = 0; b < z.B(); ++b)
    for (int64_t h = 0; h < z.H; ++h) {
      const int64_t g = h / (z.H / z.G), t = z.at[b];
      const auto place = [&](int64_t s) { return ((b * z.S + s) * z.G + g) * z.d; };
      std::vector<double> out(static_cast<size_t>(z.d));
      double sum = 0;
      for (int64_t s = 0; s <= t; ++s) {
        if (s < z.first[b] || (z.window > 0 && s <= t - z.window)) continue;
        double score = 0;
        for (int64_t j = 0; j < z.d; ++j) score += o.q.at((b * z.H + h) * z.d + j) * o.keys.at(place(s) + j);
        const double e = std::exp(score / std::sqrt(static_cast<double>(z.d)));
        sum += e;
        for (int64_t j = 0; j < z.d; ++j) out[j] += e * o.values.at(place(s) + j);
      }
      for (double x : out) y.push_back(t < 0 ? 0 : x / sum);
    }
  return y;
}

TEST(AttentionCached, EqualsItsDefinition) {
  for (const Sizes& z : sizes())
    for (DType dtype : {DType::f64, DType::f32}) {
      SCOPED_TRACE(z.str() + " " + name_of(dtype));
      const Operands o(z, context(dtype));
      Owned y(dtype, {z.B(), z.H, z.d});
      y.fill(kPoison);
      attention_cached(context(dtype), o.q, o.k, o.v, o.at, o.first, z.window, y);
      const std::vector<double> want = definition(z, o);
      for (int64_t i = 0; i < y.numel(); ++i)
        ASSERT_NEAR(y.at(i), want[i], 4 * tolerance::formula(dtype)) << "element " << i;
    }
}

TEST(AttentionCached, HasTheBitsOfAttentionAtEachPosition) {
  for (DType dtype : {DType::f64, DType::f32})
    for (int64_t window : {0, 5, 150}) {
      const int64_t T = 230, H = 4, G = 2, d = 36, S = 256;
      const Ctx ctx = context(dtype);
      const Owned q = Owned::normal(dtype, {1, T, H, d}, "q"), k = Owned::normal(dtype, {1, T, G, d}, "k"),
                  v = Owned::normal(dtype, {1, T, G, d}, "v");
      Owned y(dtype, {1, T, H, d}), lse(dtype, {1, H, T}), out(dtype, {1, H, d});
      std::vector<int32_t> start(T);
      for (int64_t t = 0; t < T; ++t) start[t] = t < 101 ? 0 : 101;
      attention_forward(ctx, q, k, v, window, Owned::ids({1, T}, start), y, lse);
      Owned k_cache(dtype, {1, G, S, d}), v_cache(dtype, {1, G, S, d});
      k_cache.fill(kPoison);  // what is behind a position must not be read into it
      v_cache.fill(kPoison);
      for (int64_t t = 0; t < T; ++t) {
        const Owned at = Owned::ids({1}, {static_cast<int32_t>(t)}), first = Owned::ids({1}, {start[t]});
        cache_append(ctx, k.view().slice(1, t, t + 1), v.view().slice(1, t, t + 1), at, k_cache, v_cache);
        attention_cached(ctx, q.view().slice(1, t, t + 1).reshape({1, H, d}), k_cache, v_cache, at, first, window, out);
        const size_t bytes = static_cast<size_t>(H * d) * size_of(dtype);
        ASSERT_EQ(
            std::memcmp(out.view().data(), static_cast<char*>(y.view().data()) + static_cast<size_t>(t) * bytes, bytes),
            0)
            << name_of(dtype) << " window " << window << " position " << t;
      }
    }
}

TEST(CacheAppend, PutsPositionsOfEachRowWhereTheyBelongAndTouchesNothingElse) {
  for (DType dtype : {DType::f64, DType::f32}) {
    const int64_t B = 3, n = 2, G = 2, S = 64, d = 3;
    const Ctx ctx = context(dtype);
    const Owned packed = Owned::normal(dtype, {B, n, 2 * G * d}, "packed");  // keys, then values
    const Tensor k = packed.view().slice(2, 0, G * d).split_last(d),
                 v = packed.view().slice(2, G * d, 2 * G * d).split_last(d);
    Owned k_cache(dtype, {B, G, S, d}), v_cache(dtype, {B, G, S, d});
    k_cache.fill(7);
    v_cache.fill(8);
    const std::vector<int32_t> at = {31, -1, 3};
    cache_append(ctx, k, v, Owned::ids({B}, at), k_cache, v_cache);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t g = 0; g < G; ++g)
        for (int64_t s = 0; s < S; ++s)
          for (int64_t j = 0; j < d; ++j) {
            const int64_t i = s - at[b], from = (b * n + i) * 2 * G * d + g * d + j, head = (b * G + g) * S * d;
            const bool written = at[b] >= 0 && i >= 0 && i < n;
            const int64_t key = dtype == DType::f64 ? s * d + j : s / 32 * 32 * d + j * 32 + s % 32;  // panels of 32
            EXPECT_EQ(k_cache.at(head + key), written ? packed.at(from) : 7);
            EXPECT_EQ(v_cache.at(head + s * d + j), written ? packed.at(from + G * d) : 8);
          }
  }
}

TEST(AttentionCached, RefusesWhatLiesOutsideTheCache) {
  const Sizes z{2, 1, 32, 6, 0, {3}, {0}};
  const Ctx ctx = context(DType::f32);
  const Operands o(z, ctx);
  Owned y(DType::f32, {1, 2, 6});
  const auto one = [](int32_t x) { return Owned::ids({1}, {x}); };
  EXPECT_THROW(attention_cached(ctx, o.q, o.k, o.v, one(32), one(0), 0, y), InvalidArgument);
  EXPECT_THROW(attention_cached(ctx, o.q, o.k, o.v, one(3), one(4), 0, y), InvalidArgument);
  EXPECT_THROW(attention_cached(ctx, o.q, o.k, o.v, one(3), one(0), -1, y), InvalidArgument);
  EXPECT_THROW(attention_cached(ctx, o.q, o.k, o.v, Owned::ids({2}, {1, 1}), one(0), 0, y), InvalidArgument);
  const Tensor elsewhere(o.k.view().data(), o.k.view().shape(), DType::f32, Device::cuda);
  EXPECT_THROW(attention_cached(ctx, o.q, elsewhere, o.v, one(3), one(0), 0, y), InvalidArgument);
  const Owned k(DType::f32, {1, 2, 1, 6}), odd(DType::f32, {1, 1, 33, 6});
  EXPECT_THROW(attention_cached(ctx, o.q, odd, odd, one(3), one(0), 0, y), InvalidArgument);
  EXPECT_THROW(cache_append(ctx, k, k, one(31), o.k, o.v), InvalidArgument);
}

TEST(AttentionCached, OnTheGpuEqualsFloat64OnTheCpu) {
  BG_NEEDS_GPU();
  std::vector<Sizes> all = sizes();
  all.push_back({8, 4, 4096, 64, 0, {4095, 2, 1000, 256, 255}, {0, 0, 0, 0, 0}});  // several parts
  all.push_back({8, 4, 4096, 64, 512, {4095, 700}, {0, 650}});
  all.push_back({2, 1, 40000, 16, 0, {39999, 20000}, {0, 19999}});
  for (const Sizes& z : all)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(z.str() + " " + name_of(dtype));
      const Ctx& ctx = cuda_context(dtype);
      const Operands o(z, ctx, dtype), wide(z, context(DType::f64), dtype);
      Owned y(dtype, {z.B(), z.H, z.d});
      y.fill(kPoison);
      const Owned q = o.q.to(ctx), at = o.at.to(ctx), first = o.first.to(ctx), out = y.to(ctx), again = y.to(ctx);
      attention_cached(ctx, q, o.k, o.v, at, first, z.window, out);
      attention_cached(ctx, q, o.k, o.v, at, first, z.window, again);
      const Owned got = out.host(ctx);
      EXPECT_TRUE(got.bits() == again.host(ctx).bits()) << "other bits when repeated";
      const std::vector<double> want = definition(z, wide);
      double off = 0, size = 0;
      for (int64_t i = 0; i < got.numel(); ++i) {
        off += (got.at(i) - want[i]) * (got.at(i) - want[i]);
        size += want[i] * want[i];
      }
      EXPECT_LE(std::sqrt(off), tolerance::attention(dtype) * std::sqrt(size));
    }
}

TEST(CacheAppend, OnTheGpuEqualsTheCpu) {
  BG_NEEDS_GPU();
  for (DType dtype : {DType::f32, DType::bf16}) {
    const int64_t B = 3, n = 4, G = 2, S = 32, d = 20;
    const Ctx& ctx = cuda_context(dtype);
    const Owned packed = Owned::normal(dtype, {B, n, 2 * G * d}, "packed", 1, 0, dtype), there = packed.to(ctx);
    const auto keys = [&](Tensor x) { return x.slice(2, 0, G * d).split_last(d); };
    const auto values = [&](Tensor x) { return x.slice(2, G * d, 2 * G * d).split_last(d); };
    const Owned at = Owned::ids({B}, {5, -1, 0}), zeros(dtype, {B, G, S, d});
    const Owned k = zeros.to(ctx), v = zeros.to(ctx);
    cache_append(ctx, keys(there), values(there), at.to(ctx), k, v);
    const Owned got_k = k.host(ctx), got_v = v.host(ctx);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = 0; i < G * S * d; ++i) {
        const int64_t g = i / (S * d), s = i / d % S, j = i % d, first = at.view().ptr<int32_t>()[b], step = s - first;
        const bool written = first >= 0 && step >= 0 && step < n;
        const int64_t from = (b * n + step) * 2 * G * d + g * d + j;
        ASSERT_EQ(got_k.at(b * G * S * d + i), written ? packed.at(from) : 0);
        ASSERT_EQ(got_v.at(b * G * S * d + i), written ? packed.at(from + G * d) : 0);
      }
  }
}

}  // namespace
}  // namespace bg
