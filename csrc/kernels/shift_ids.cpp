#include "kernels/shift_ids.h"

#include <algorithm>

BG_CUDA_DECLARE(shift_ids)

namespace bg {
namespace cpu {
void shift_ids(const Ctx&, Tensor ids, int64_t K, Tensor out) {
  const int64_t T = ids.dim(1);
  for (int64_t b = 0; b < ids.dim(0); ++b)
    std::copy_n(ids.ptr<int32_t>() + b * T + K, T - K, out.ptr<int32_t>() + b * (T - K));
}
}  // namespace cpu

void shift_ids(const Ctx& ctx, Tensor ids, int64_t K, Tensor out) {
  BG_CHECK(ids.rank() == 2 && K >= 0 && K < ids.dim(1) && out.numel() == ids.dim(0) * (ids.dim(1) - K), "shift_ids of",
           ids.shape().str(), "by", K, "to", out.shape().str());
  BG_DISPATCH(ids.device(), shift_ids(ctx, ids, K, out));
}

}  // namespace bg
