#include "kernels/fingerprint.h"

namespace bg {

std::vector<uint64_t> fingerprints(const Ctx& ctx, std::span<const Tensor> tensors) {
  for (const Tensor& t : tensors)
    BG_CHECK(t.is_contiguous() && t.device() == ctx.device,
             "fingerprints are of contiguous tensors on the context's device");
  std::vector<uint64_t> out(tensors.size());
  BG_DISPATCH(ctx.device, fingerprints(ctx, tensors, out));
  return out;
}

}  // namespace bg
