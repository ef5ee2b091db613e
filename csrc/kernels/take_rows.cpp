#include "kernels/take_rows.h"

#include <algorithm>

BG_CUDA_DECLARE(take_rows)

namespace bg {
namespace cpu {
void take_rows(const Ctx&, Tensor x, Tensor index, Tensor y) {
  const int64_t D = x.dim(1);
  const int32_t* rows = index.ptr<int32_t>();
  BG_FLOATS(x.dtype(), T, {
    for (int64_t n = 0; n < y.dim(0); ++n) {
      T* to = y.ptr<T>() + n * D;
      if (rows[n] < 0)
        std::fill_n(to, D, T(0));
      else
        std::copy_n(x.ptr<T>() + rows[n] * D, D, to);
    }
  });
}
}  // namespace cpu

void take_rows(const Ctx& ctx, Tensor x, Tensor index, Tensor y) {
  BG_CHECK(x.rank() == 2 && y.rank() == 2 && x.dim(1) == y.dim(1) && index.numel() == y.dim(0), "take_rows of",
           x.shape().str(), "into", y.shape().str(), "by", index.shape().str());
  BG_CHECK(x.dtype() == y.dtype() && index.dtype() == DType::i32, "take_rows: dtypes", name_of(x.dtype()),
           name_of(y.dtype()), name_of(index.dtype()));
  BG_CHECK(x.is_contiguous() && y.is_contiguous() && index.is_contiguous(), "take_rows of strided tensors");
  BG_DISPATCH(x.device(), take_rows(ctx, x, index, y));
}

}  // namespace bg
