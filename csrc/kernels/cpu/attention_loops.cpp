#include "kernels/cpu/attention_loops.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/scratch.h"

namespace bg::cpu {
namespace {

template <class T>
T* at(const Tensor& x, int64_t b, int64_t t, int64_t head) {
  return x.ptr<T>() + b * x.stride(0) + t * x.stride(1) + head * x.stride(2);
}

template <class T>
T dot(const T* x, const T* y, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// One query over keys s0..last, rows k_row and v_row elements apart: out (d), and the logarithm of the sum of
// exponentials; zeros and -infinity when there are none. p: room for last+1 scores.
template <class T>
T read_keys(const T* q, const T* k, int64_t k_row, const T* v, int64_t v_row, int64_t s0, int64_t last, int64_t d, T* p,
            T* out) {
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  T top = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int64_t s = s0; s <= last; ++s) {
    p[s] = scale * dot(q, k + s * k_row, d);
    top = std::max(top, p[s]);
  }
  std::fill(out, out + d, T(0));
  if (last < s0) return top;
  for (int64_t s = s0; s <= last; ++s) {
    const T e = std::exp(p[s] - top);
    sum += e;
    for (int64_t j = 0; j < d; ++j) out[j] += e * v[s * v_row + j];
  }
  for (int64_t j = 0; j < d; ++j) out[j] /= sum;
  return top + std::log(sum);
}

}  // namespace

template <class T>
void attention_forward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, const KeysOfQueries& keys, Tensor y,
                             Tensor lse) {
  const int64_t B = q.dim(0), N = q.dim(1), H = q.dim(2), d = q.dim(3), per_group = H / k.dim(2);
  ctx.pool->parallel_for(B * H, [&](int64_t i) {
    static thread_local Scratch scratch;
    T* p = scratch.get<T>(static_cast<size_t>(k.dim(1)));
    const int64_t b = i / H, h = i % H, g = h / per_group;
    for (int64_t t = 0; t < N; ++t)
      lse.ptr<T>()[i * N + t] = read_keys(at<T>(q, b, t, h), at<T>(k, b, 0, g), k.stride(1), at<T>(v, b, 0, g),
                                          v.stride(1), keys.first(b, t), keys.last(b, t), d, p, at<T>(y, b, t, h));
  });
}

template <class T>
void attention_cached_loops(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first,
                            int64_t window, Tensor y) {
  const int64_t B = q.dim(0), H = q.dim(1), d = q.dim(2), G = k_cache.dim(1), S = k_cache.dim(2);
  ctx.pool->parallel_for(B * H, [&](int64_t i) {
    static thread_local Scratch scratch;
    T* p = scratch.get<T>(static_cast<size_t>(S));
    const int64_t b = i / H, cache = (b * G + i % H / (H / G)) * S * d, t = at.ptr<int32_t>()[b];
    const int64_t from = first.ptr<int32_t>()[b], s0 = window ? std::max<int64_t>(from, t - window + 1) : from;
    T* out = y.ptr<T>() + i * d;
    if (t < 0)
      std::fill_n(out, d, T(0));
    else
      read_keys(q.ptr<T>() + i * d, k_cache.ptr<T>() + cache, d, v_cache.ptr<T>() + cache, d, s0, t, d, p, out);
  });
}

// With p = exp(score - lse), D = dy . y:  dv[s] += p dy[t];  ds = p (dy . v[s] - D);  dq[t] += ds k[s] / sqrt(d);
// dk[s] += ds q[t] / sqrt(d).
template <class T>
void attention_backward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, const KeysOfQueries& keys, Tensor y,
                              Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv) {
  const int64_t B = q.dim(0), N = q.dim(1), H = q.dim(2), d = q.dim(3), G = k.dim(2), per_group = H / G;
  const T scale = T(1) / std::sqrt(static_cast<T>(d));
  ctx.pool->parallel_for(B * G, [&](int64_t i) {
    const int64_t b = i / G, g = i % G;
    for (int64_t s = 0; s < k.dim(1); ++s) {
      std::fill_n(at<T>(dk, b, s, g), d, T(0));
      std::fill_n(at<T>(dv, b, s, g), d, T(0));
    }
    for (int64_t h = g * per_group; h < (g + 1) * per_group; ++h) {
      for (int64_t t = 0; t < N; ++t) {
        const T *qt = at<T>(q, b, t, h), *dyt = at<T>(dy, b, t, h);
        const T mean = dot(dyt, at<T>(y, b, t, h), d), log_sum = lse.ptr<T>()[(b * H + h) * N + t];
        T* dqt = at<T>(dq, b, t, h);
        std::fill_n(dqt, d, T(0));
        for (int64_t s = keys.first(b, t), last = keys.last(b, t); s <= last; ++s) {
          const T *ks = at<T>(k, b, s, g), *vs = at<T>(v, b, s, g);
          T *dks = at<T>(dk, b, s, g), *dvs = at<T>(dv, b, s, g);
          const T p = std::exp(scale * dot(qt, ks, d) - log_sum);
          const T ds = scale * p * (dot(dyt, vs, d) - mean);
          for (int64_t j = 0; j < d; ++j) {
            dvs[j] += p * dyt[j];
            dqt[j] += ds * ks[j];
            dks[j] += ds * qt[j];
          }
        }
      }
    }
  });
}

template void attention_forward_loops<float>(const Ctx&, Tensor, Tensor, Tensor, const KeysOfQueries&, Tensor, Tensor);
template void attention_forward_loops<double>(const Ctx&, Tensor, Tensor, Tensor, const KeysOfQueries&, Tensor, Tensor);
template void attention_cached_loops<double>(const Ctx&, Tensor, Tensor, Tensor, Tensor, Tensor, int64_t, Tensor);
template void attention_backward_loops<float>(const Ctx&, Tensor, Tensor, Tensor, const KeysOfQueries&, Tensor, Tensor,
                                              Tensor, Tensor, Tensor, Tensor);
template void attention_backward_loops<double>(const Ctx&, Tensor, Tensor, Tensor, const KeysOfQueries&, Tensor, Tensor,
                                               Tensor, Tensor, Tensor, Tensor);

}  // namespace bg::cpu
