// Attention written out as its definition: plain loops, one query at a time. Runs float64,
// and float32 where keys are ranges.
#pragma once

#include <algorithm>

#include "kernels/attention.h"

namespace bg::cpu {

/// The keys first(b, t) .. last(b, t) that query t of row b reads; an empty range where last < first.
class KeysOfQueries {
 public:
  /// Those of attention_forward().
  KeysOfQueries(int64_t window, Tensor doc_start) : window_(window), lower_(doc_start), causal_(true) {}
  /// Those of cross_attention_forward() among Tk keys.
  KeysOfQueries(const KeyRange& range, int64_t Tk) : lower_(range.first), upper_(range.last), Tk_(Tk) {}

  int64_t first(int64_t b, int64_t t) const {
    const int64_t by_window = window_ ? std::max<int64_t>(0, t - window_ + 1) : 0;
    return lower_ ? std::max<int64_t>(by_window, at(lower_, b, t)) : by_window;
  }
  int64_t last(int64_t b, int64_t t) const {
    if (causal_) return t;
    return upper_ ? std::min<int64_t>(at(upper_, b, t), Tk_ - 1) : Tk_ - 1;
  }

 private:
  static int64_t at(const Tensor& x, int64_t b, int64_t t) { return x.ptr<int32_t>()[b * x.dim(1) + t]; }
  int64_t window_ = 0;
  Tensor lower_, upper_;
  int64_t Tk_ = 0;
  bool causal_ = false;
};

/// attention_forward() and attention_backward() of kernels/attention.h, or cross_attention_forward() and _backward(),
/// as `keys` says, for T = float or double; any strides.
template <class T>
void attention_forward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, const KeysOfQueries& keys, Tensor y,
                             Tensor lse);
template <class T>
void attention_backward_loops(const Ctx& ctx, Tensor q, Tensor k, Tensor v, const KeysOfQueries& keys, Tensor y,
                              Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv);

/// attention_cached() of kernels/attention_cached.h for T = double, keys as they come; the bits of
/// attention_forward_loops().
template <class T>
void attention_cached_loops(const Ctx& ctx, Tensor q, Tensor k_cache, Tensor v_cache, Tensor at, Tensor first,
                            int64_t window, Tensor y);

}  // namespace bg::cpu
