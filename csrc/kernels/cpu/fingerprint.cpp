#include "kernels/fingerprint.h"

#include <cstring>

namespace bg::cpu {

void fingerprints(const Ctx& ctx, std::span<const Tensor> tensors, std::vector<uint64_t>& out) {
  ctx.pool->parallel_for(static_cast<int64_t>(tensors.size()), [&](int64_t t) {
    const Tensor& x = tensors[static_cast<size_t>(t)];
    uint64_t sum = 0;
    BG_FLOATS(x.dtype(), T, {
      using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
      for (int64_t i = 0; i < x.numel(); ++i) {
        Bits bits;
        std::memcpy(&bits, x.ptr<T>() + i, sizeof(bits));
        sum += fingerprint_of(bits, static_cast<uint64_t>(i));
      }
    });
    out[static_cast<size_t>(t)] = sum;
  });
}

}  // namespace bg::cpu
