#include "tensor/convert.h"

#include <algorithm>

BG_CUDA_DECLARE(convert)

namespace bg {
namespace cpu {
void convert(const Ctx&, Tensor x, Tensor y) {
  BG_FLOATS(x.dtype(), From, BG_FLOATS(y.dtype(), To, {
              const From* px = x.ptr<From>();
              std::transform(px, px + x.numel(), y.ptr<To>(), [](From v) { return static_cast<To>(v); });
            }));
}
}  // namespace cpu

void convert(const Ctx& ctx, Tensor x, Tensor y) {
  BG_CHECK(x.numel() == y.numel() && x.is_contiguous() && y.is_contiguous(), "convert", x.shape().str(), "to",
           y.shape().str());
  BG_DISPATCH(x.device(), convert(ctx, x, y));
}

}  // namespace bg
