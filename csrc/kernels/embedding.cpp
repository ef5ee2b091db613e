#include "kernels/embedding.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(embedding_forward)
BG_DECLARE_BODIES(embedding_backward)
BG_DECLARE_BODIES(bigram_hash)
BG_DECLARE_BODIES(document_starts)

namespace bg {

void embedding_forward(const Ctx& ctx, Tensor ids, Tensor table, Tensor y) {
  BG_CHECK(y.dim(0) == ids.numel() && y.dim(1) == table.dim(1), "embedding of", ids.shape().str(), "to",
           y.shape().str());
  BG_DISPATCH(table.device(), embedding_forward(ctx, ids, table, y));
}
void embedding_backward(const Ctx& ctx, Tensor ids, Tensor dy, Tensor dtable) {
  BG_CHECK(dy.dim(0) == ids.numel() && dy.dim(1) == dtable.dim(1), "embedding backward of", dy.shape().str());
  BG_DISPATCH(dtable.device(), embedding_backward(ctx, ids, dy, dtable));
}
void bigram_hash(const Ctx& ctx, Tensor ids, BigramHash kind, int64_t buckets, Tensor out) {
  BG_CHECK(ids.rank() == 2 && out.numel() == ids.numel() && buckets >= 2, "bigram_hash of", ids.shape().str(), "into",
           buckets);
  BG_DISPATCH(ids.device(), bigram_hash(ctx, ids, kind, buckets, out));
}
void document_starts(const Ctx& ctx, Tensor ids, int32_t bos, Tensor out) {
  BG_CHECK(ids.rank() == 2 && out.shape() == ids.shape(), "document_starts of", ids.shape().str());
  BG_DISPATCH(ids.device(), document_starts(ctx, ids, bos, out));
}

}  // namespace bg
