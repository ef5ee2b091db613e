// Table gradients: blocks of columns are tasks, so that rows are added in order without conflicts.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/embedding.cpp"
#include "kernels/embedding.h"
#include "hwy/foreach_target.h"
#include "kernels/cpu/body.h"
#include "kernels/cpu/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace bg::cpu::HWY_NAMESPACE {
namespace {  // names repeat across files

template <class T>
void forward(const Ctx& ctx, Tensor ids, Tensor table, Tensor y) {
  const int64_t D = table.dim(1);
  const int32_t* id = ids.ptr<int32_t>();
  const T* rows = table.ptr<T>();
  T* py = y.ptr<T>();
  for_rows(ctx, ids.numel(), [=](int64_t n) { std::copy_n(rows + id[n] * D, D, py + n * D); });
}

template <class T>
void backward(const Ctx& ctx, Tensor ids, Tensor dy, Tensor dtable) {
  constexpr int64_t kCols = 32;
  const int64_t N = ids.numel(), D = dtable.dim(1);
  const int32_t* id = ids.ptr<int32_t>();
  const T* g = dy.ptr<T>();
  T* rows = dtable.ptr<T>();
  ctx.pool->parallel_for(ceil_div(D, kCols), [=](int64_t task) {
    const int64_t lo = task * kCols, hi = std::min(D, lo + kCols);
    for (int64_t n = 0; n < N; ++n) {
      T* row = rows + id[n] * D;
      for (int64_t i = lo; i < hi; ++i) row[i] += g[n * D + i];
    }
  });
}

void embedding_forward(const Ctx& ctx, Tensor ids, Tensor table, Tensor y) {
  BG_FLOATS(table.dtype(), T, forward<T>(ctx, ids, table, y));
}
void embedding_backward(const Ctx& ctx, Tensor ids, Tensor dy, Tensor dtable) {
  BG_FLOATS(dy.dtype(), T, backward<T>(ctx, ids, dy, dtable));
}

void bigram_hash(const Ctx& ctx, Tensor ids, BigramHash kind, int64_t buckets, Tensor out) {
  const int64_t T = ids.dim(1);
  const int32_t* id = ids.ptr<int32_t>();
  int32_t* o = out.ptr<int32_t>();
  for_rows(ctx, ids.numel(), [=](int64_t n) {
    const bool first = n % T == 0;
    const uint32_t now = static_cast<uint32_t>(id[n]), before = first ? 0 : static_cast<uint32_t>(id[n - 1]);
    if (kind == BigramHash::product) {
      o[n] = static_cast<int32_t>((256 * before + now) % static_cast<uint32_t>(buckets));
    } else {  // products stay below 2^31 for ids of a byte alphabet, so unsigned and signed arithmetic agree
      const uint32_t m = static_cast<uint32_t>(buckets - 1);
      o[n] = static_cast<int32_t>(first ? m : ((36313u * now) ^ (27191u * before)) % m);
    }
  });
}

void document_starts(const Ctx& ctx, Tensor ids, int32_t bos, Tensor out) {
  const int64_t T = ids.dim(1);
  const int32_t* id = ids.ptr<int32_t>();
  int32_t* o = out.ptr<int32_t>();
  ctx.pool->parallel_for(ids.dim(0), [=](int64_t b) {
    int32_t start = 0;
    for (int64_t t = 0; t < T; ++t) {
      if (id[b * T + t] == bos) start = static_cast<int32_t>(t);
      o[b * T + t] = start;
    }
  });
}

}  // namespace
}  // namespace bg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace bg::cpu {
BG_CPU_BODY(embedding_forward)
BG_CPU_BODY(embedding_backward)
BG_CPU_BODY(bigram_hash)
BG_CPU_BODY(document_starts)
}  // namespace bg::cpu
#endif
