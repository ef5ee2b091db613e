#include "kernels/attention_cached.h"

namespace bg {
namespace {

void check_rows(const char* what, const Tensor& t, int64_t B, Device device) {
  BG_CHECK(t.numel() == B && t.dtype() == DType::i32 && t.is_contiguous() && t.device() == device,
           "attention cache:", what, "must be", B, "int32 on", name_of(device), "got", t.shape().str(),
           name_of(t.dtype()), "on", name_of(t.device()));
}

void check_caches(const Tensor& k_cache, const Tensor& v_cache, int64_t B, int64_t G, int64_t d, const Tensor& beside) {
  BG_CHECK(k_cache.rank() == 4 && k_cache.shape() == v_cache.shape() && k_cache.dim(0) == B && k_cache.dim(1) == G &&
               k_cache.dim(3) == d,
           "attention cache: caches", k_cache.shape().str(), v_cache.shape().str(), "for", B, "rows,", G, "heads of",
           d);
  BG_CHECK(k_cache.is_contiguous() && v_cache.is_contiguous() && k_cache.dim(2) % kCachePanel == 0,
           "attention cache: caches must be contiguous, their length a multiple of", kCachePanel, "- got",
           k_cache.shape().str());
  for (const Tensor& cache : {k_cache, v_cache})
    BG_CHECK(cache.dtype() == beside.dtype() && cache.device() == beside.device(), "attention cache: caches of",
             name_of(cache.dtype()), "on", name_of(cache.device()), "beside", name_of(beside.dtype()), "on",
             name_of(beside.device()));
}

}  // namespace

void cache_append(const Ctx& ctx, Tensor k, Tensor v, Tensor at, Tensor k_cache, Tensor v_cache) {
  BG_CHECK(k.rank() == 4 && k.shape() == v.shape() && k.dtype() == v.dtype() && k.device() == v.device(),
           "attention cache: keys", k.shape().str(), "and values", v.shape().str());
  const int64_t B = k.dim(0), n = k.dim(1), G = k.dim(2), d = k.dim(3);
  BG_CHECK(d == 1 || (k.stride(3) == 1 && v.stride(3) == 1), "attention cache: the last dimension must be contiguous");
  check_caches(k_cache, v_cache, B, G, d, k);
  check_rows("at", at, B, k.device());
  const int64_t S = k_cache.dim(2);
  BG_CHECK(n <= S, "attention cache:", n, "positions into", S);
  if (at.device() == Device::cpu)
    for (int64_t b = 0; b < B; ++b)
      BG_CHECK(at.ptr<int32_t>()[b] <= S - n, "attention cache: position", at.ptr<int32_t>()[b], "of row", b, "beyond",
               S - n);
  if (k.numel() == 0) return;
  BG_DISPATCH(k.device(), cache_append(ctx, k, v, at, k_cache, v_cache));
}

void attention_cached(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first, int64_t window,
                      Tensor y) {
  BG_CHECK(q.rank() == 3 && q.shape() == y.shape() && q.is_contiguous() && y.is_contiguous() &&
               q.dtype() == y.dtype() && q.device() == y.device() && k_cache.rank() == 4,
           "attention cache: queries", q.shape().str(), "results", y.shape().str(), "caches", k_cache.shape().str());
  const int64_t B = q.dim(0), H = q.dim(1), d = q.dim(2), G = k_cache.dim(1);
  BG_CHECK(G > 0 && H % G == 0, "attention cache: query heads must be a multiple of key/value heads:", H, G);
  BG_CHECK(window >= 0, "attention cache: window must be 0 (all) or positive, got", window);
  check_caches(k_cache, v_cache, B, G, d, q);
  check_rows("at", at, B, q.device());
  check_rows("first", first, B, q.device());
  if (at.device() == Device::cpu)
    for (int64_t b = 0; b < B; ++b) {
      const int32_t t = at.ptr<int32_t>()[b], from = first.ptr<int32_t>()[b];
      BG_CHECK(t < 0 || (0 <= from && from <= t && t < k_cache.dim(2)), "attention cache: row", b, "reads", from, "to",
               t, "of", k_cache.dim(2), "positions");
    }
  if (y.numel() == 0) return;
  BG_DISPATCH(q.device(), attention_cached(ctx, q, k_cache, v_cache, at, first, window, y));
}

}  // namespace bg
