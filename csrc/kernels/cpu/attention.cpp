// Attention on the CPU: float64 and ranges of keys by plain loops, causal float32 by blocks.
#include "kernels/attention.h"

#include <cmath>

#include "kernels/cpu/attention_fast.h"
#include "kernels/cpu/attention_loops.h"

namespace bg::cpu {
namespace {

AttentionArgs arguments(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window, const Tensor& doc_start,
                        const Tensor& y, const Tensor& lse) {
  AttentionArgs p{};
  p.B = q.dim(0);
  p.T = q.dim(1);
  p.H = q.dim(2);
  p.G = k.dim(2);
  p.d = q.dim(3);
  p.window = window;
  p.doc_start = doc_start ? doc_start.ptr<int32_t>() : nullptr;
  p.q = HeadRows(q);
  p.k = HeadRows(k);
  p.v = HeadRows(v);
  p.y = HeadRows(y);
  p.lse = lse.ptr<float>();
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(p.d)));
  return p;
}

}  // namespace

void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor) {
  if (q.dtype() == DType::f64) return attention_forward_loops<double>(ctx, q, k, v, {window, doc_start}, y, lse);
  attention_forward_fast(*ctx.pool, arguments(q, k, v, window, doc_start, y, lse));
}

void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  if (q.dtype() == DType::f64)
    return attention_backward_loops<double>(ctx, q, k, v, {window, doc_start}, y, lse, dy, dq, dk, dv);
  AttentionArgs p = arguments(q, k, v, window, doc_start, y, lse);
  p.dy = HeadRows(dy);
  p.dq = HeadRows(dq);
  p.dk = HeadRows(dk);
  p.dv = HeadRows(dv);
  p.scratch = static_cast<float*>(scratch.data());
  attention_backward_fast(*ctx.pool, p);
}

void cross_attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse) {
  BG_FLOATS(q.dtype(), T, attention_forward_loops<T>(ctx, q, k, v, {range, k.dim(1)}, y, lse));
}

void cross_attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse,
                              Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor) {
  BG_FLOATS(q.dtype(), T, attention_backward_loops<T>(ctx, q, k, v, {range, k.dim(1)}, y, lse, dy, dq, dk, dv));
}

}  // namespace bg::cpu
