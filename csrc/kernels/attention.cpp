#include "kernels/attention.h"

#include <algorithm>

namespace bg {
namespace {

void check_heads(const char* name, const Tensor& t, int64_t B, int64_t T, int64_t heads, int64_t d, DType dtype) {
  BG_CHECK(t.rank() == 4 && t.shape() == Shape({B, T, heads, d}), "attention:", name, "has shape", t.shape().str(),
           "instead of", Shape({B, T, heads, d}).str());
  BG_CHECK(t.dtype() == dtype, "attention:", name, "is", name_of(t.dtype()), "instead of", name_of(dtype));
  BG_CHECK(d == 1 || t.stride(3) == 1, "attention: the last dimension of", name, "must be contiguous, its stride is",
           t.stride(3));
}

void check(const Tensor& q, const Tensor& k, const Tensor& v, int64_t window, const Tensor& doc_start, const Tensor& y,
           const Tensor& lse) {
  BG_CHECK(q.rank() == 4 && k.rank() == 4, "attention: q and k need 4 dimensions, got", q.shape().str(),
           k.shape().str());
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), d = q.dim(3), G = k.dim(2);
  BG_CHECK(G > 0 && H % G == 0, "attention: query heads must be a multiple of key/value heads:", H, G);
  BG_CHECK(d > 0, "attention: the head size must be positive");
  const DType full = q.dtype() == DType::bf16 ? DType::f32 : q.dtype();
  BG_CHECK(window >= 0, "attention: window must be 0 (all) or positive, got", window);
  check_heads("q", q, B, T, H, d, q.dtype());
  check_heads("k", k, B, T, G, d, q.dtype());
  check_heads("v", v, B, T, G, d, q.dtype());
  check_heads("y", y, B, T, H, d, q.dtype());
  BG_CHECK(lse.shape() == Shape({B, H, T}) && lse.is_contiguous() && lse.dtype() == full,
           "attention: lse must be contiguous", Shape({B, H, T}).str(), "of", name_of(full), "got", lse.shape().str(),
           name_of(lse.dtype()));
  if (!doc_start) return;
  BG_CHECK(doc_start.shape() == Shape({B, T}) && doc_start.is_contiguous() && doc_start.dtype() == DType::i32,
           "attention: doc_start must be contiguous int32", Shape({B, T}).str(), "got", doc_start.shape().str(),
           name_of(doc_start.dtype()));
  if (doc_start.device() != Device::cpu) return;
  const int32_t* start = doc_start.ptr<int32_t>();
  for (int64_t i = 0; i < B * T; ++i)
    BG_CHECK(0 <= start[i] && start[i] <= i % T, "attention: doc_start of position", i % T, "in row", i / T, "is",
             start[i]);
}

}  // namespace

void attention_forward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                       Tensor lse, Tensor gain) {
  check(q, k, v, window, doc_start, y, lse);
  BG_CHECK(!gain || (gain.numel() == q.dim(2) && gain.dtype() == lse.dtype()), "attention: gain must be", q.dim(2),
           "values of", name_of(lse.dtype()), "got", gain.shape().str(), name_of(gain.dtype()));
  if (y.numel() == 0) return;
  BG_DISPATCH(q.device(), attention_forward(ctx, q, k, v, window, doc_start, y, lse, gain));
}

void attention_backward(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                        Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  check(q, k, v, window, doc_start, y, lse);
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), d = q.dim(3), G = k.dim(2);
  check_heads("dy", dy, B, T, H, d, q.dtype());
  check_heads("dq", dq, B, T, H, d, q.dtype());
  check_heads("dk", dk, B, T, G, d, q.dtype());
  check_heads("dv", dv, B, T, G, d, q.dtype());
  const int64_t need = attention_scratch_bytes(q.device(), q.dtype(), B, T, H, d);
  BG_CHECK(static_cast<int64_t>(scratch.size_bytes()) >= need, "attention: scratch holds", scratch.size_bytes(),
           "bytes, needed are", need);
  if (y.numel() == 0) return;
  BG_DISPATCH(q.device(), attention_backward(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv, scratch));
}

int64_t attention_scratch_bytes(Device device, DType dtype, int64_t B, int64_t T, int64_t H, int64_t d) {
  if (device == Device::cuda) return B * H * T * static_cast<int64_t>(sizeof(float));  // sum over d of dy y
  // Per query head: dk, dv and at most four partial sums of dq.
  return B * H * T * d * (2 + std::min<int64_t>(4, (T + 1023) / 1024)) * static_cast<int64_t>(size_of(dtype));
}

}  // namespace bg
