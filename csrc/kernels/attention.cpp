#include "kernels/attention.h"

#include <algorithm>

namespace bg {
namespace {

// A (B, T, heads, d) operand of a call with queries q.
void check_heads(const char* name, const Tensor& t, int64_t T, int64_t heads, const Tensor& q) {
  const Shape shape{q.dim(0), T, heads, q.dim(3)};
  BG_CHECK(t.shape() == shape, "attention:", name, "has shape", t.shape().str(), "instead of", shape.str());
  BG_CHECK(t.dtype() == q.dtype(), "attention:", name, "is", name_of(t.dtype()), "instead of", name_of(q.dtype()));
  BG_CHECK(t.device() == q.device(), "attention:", name, "is on", name_of(t.device()), "and q on", name_of(q.device()));
  BG_CHECK(q.dim(3) == 1 || t.stride(3) == 1, "attention: the last dimension of", name,
           "must be contiguous, its stride is", t.stride(3));
}

// A contiguous tensor of small numbers beside q.
void check_beside(const char* name, const Tensor& t, Shape shape, DType dtype, const Tensor& q) {
  BG_CHECK(t.shape() == shape && t.is_contiguous() && t.dtype() == dtype && t.device() == q.device(),
           "attention:", name, "must be contiguous", shape.str(), "of", name_of(dtype), "on", name_of(q.device()),
           "got", t.shape().str(), name_of(t.dtype()), "on", name_of(t.device()));
}

void check_operands(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& y, const Tensor& lse) {
  BG_CHECK(q.rank() == 4 && k.rank() == 4, "attention: q and k need 4 dimensions, got", q.shape().str(),
           k.shape().str());
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), Tk = k.dim(1), G = k.dim(2);
  BG_CHECK(G > 0 && H % G == 0, "attention: query heads must be a multiple of key/value heads:", H, G);
  BG_CHECK(q.dim(3) > 0, "attention: the head size must be positive");
  check_heads("q", q, T, H, q);
  check_heads("k", k, Tk, G, q);
  check_heads("v", v, Tk, G, q);
  check_heads("y", y, T, H, q);
  check_beside("lse", lse, {B, H, T}, q.dtype() == DType::bf16 ? DType::f32 : q.dtype(), q);
}

void check_gradients(const Tensor& q, const Tensor& k, const Tensor& dy, const Tensor& dq, const Tensor& dk,
                     const Tensor& dv, const Tensor& scratch, int64_t need) {
  check_heads("dy", dy, q.dim(1), q.dim(2), q);
  check_heads("dq", dq, q.dim(1), q.dim(2), q);
  check_heads("dk", dk, k.dim(1), k.dim(2), q);
  check_heads("dv", dv, k.dim(1), k.dim(2), q);
  BG_CHECK(need == 0 || (static_cast<int64_t>(scratch.size_bytes()) >= need && scratch.device() == q.device()),
           "attention: scratch holds", scratch.size_bytes(), "bytes on", name_of(scratch.device()), "needed are", need,
           "on", name_of(q.device()));
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window, const Tensor& doc_start, const Tensor& y,
           const Tensor& lse) {
  check_operands(q, k, v, y, lse);
  const int64_t B = q.dim(0), T = q.dim(1);
  check_heads("k", k, T, k.dim(2), q);
  BG_CHECK(window >= 0, "attention: window must be 0 (all) or positive, got", window);
  if (!doc_start) return;
  check_beside("doc_start", doc_start, {B, T}, DType::i32, q);
  if (doc_start.device() != Device::cpu) return;
  const int32_t* start = doc_start.ptr<int32_t>();
  for (int64_t i = 0; i < B * T; ++i) {
    BG_CHECK(0 <= start[i] && start[i] <= i % T, "attention: doc_start of position", i % T, "in row", i / T, "is",
             start[i]);
    BG_CHECK(i % T == 0 || start[i - 1] <= start[i], "attention: doc_start decreases to", start[i], "at position",
             i % T, "in row", i / T);
  }
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, const KeyRange& range, const Tensor& y,
           const Tensor& lse) {
  check_operands(q, k, v, y, lse);
  BG_CHECK(static_cast<bool>(range.first) == static_cast<bool>(range.last),
           "attention: a range needs its first and its last key, or neither");
  if (!range.first) return;
  check_beside("first", range.first, {q.dim(0), q.dim(1)}, DType::i32, q);
  check_beside("last", range.last, {q.dim(0), q.dim(1)}, DType::i32, q);
}

}  // namespace

void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor gain) {
  check(q, k, v, window, doc_start, y, lse);
  BG_CHECK(!gain || (gain.numel() == q.dim(2) && gain.dtype() == lse.dtype() && gain.device() == q.device()),
           "attention: gain must be", q.dim(2), "values of", name_of(lse.dtype()), "got", gain.shape().str(),
           name_of(gain.dtype()), "on", name_of(gain.device()));
  if (y.numel() == 0) return;
  BG_DISPATCH(q.device(), attention_forward(ctx, q, k, v, window, doc_start, y, lse, gain));
}

void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  check(q, k, v, window, doc_start, y, lse);
  check_gradients(q, k, dy, dq, dk, dv, scratch,
                  attention_scratch_bytes(q.device(), q.dtype(), q.dim(0), q.dim(1), q.dim(2), q.dim(3)));
  if (y.numel() == 0) return;
  BG_DISPATCH(q.device(), attention_backward(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv, scratch));
}

void cross_attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse) {
  check(q, k, v, range, y, lse);
  BG_DISPATCH(q.device(), cross_attention_forward(ctx, q, k, v, range, y, lse));
}

void cross_attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, KeyRange range, Tensor y, Tensor lse,
                              Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  check(q, k, v, range, y, lse);
  check_gradients(q, k, dy, dq, dk, dv, scratch,
                  cross_attention_scratch_bytes(q.device(), q.dim(0), q.dim(1), q.dim(2)));
  BG_DISPATCH(q.device(), cross_attention_backward(ctx, q, k, v, range, y, lse, dy, dq, dk, dv, scratch));
}

int64_t cross_attention_scratch_bytes(Device device, int64_t B, int64_t Tq, int64_t H) {
  return device == Device::cuda ? B * H * Tq * static_cast<int64_t>(sizeof(float)) : 0;  // sum over d of dy y
}

int64_t attention_scratch_bytes(Device device, DType dtype, int64_t B, int64_t T, int64_t H, int64_t d) {
  if (device == Device::cuda) return B * H * T * static_cast<int64_t>(sizeof(float));  // sum over d of dy y
  // Per query head: dk, dv and at most four partial sums of dq.
  return B * H * T * d * (2 + std::min<int64_t>(4, (T + 1023) / 1024)) * static_cast<int64_t>(size_of(dtype));
}

}  // namespace bg
