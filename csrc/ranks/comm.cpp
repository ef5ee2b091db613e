#include "ranks/comm.h"

#include "base/check.h"

namespace bg {

Comm::Comm(int64_t rank, int64_t world) : rank_(rank), world_(world) {
  BG_CHECK(world >= 1 && rank >= 0 && rank < world, "rank", rank, "of", world);
}

void Comm::check(Tensor x, int64_t parts) const {
  BG_CHECK(x && x.is_contiguous(), "ranks exchange contiguous tensors only");
  BG_CHECK(x.numel() % parts == 0, x.numel(), "elements cannot be cut into", parts, "parts");
}

namespace cpu {
void make_nccl_comm(const Ctx&, int64_t, int64_t, std::span<const uint8_t>, std::shared_ptr<Comm>&) {
  throw InvalidArgument("NCCL connects GPUs; device cpu uses sockets");
}
}  // namespace cpu

namespace cuda {  // ranks/cuda/nccl.cu
void make_nccl_comm(const Ctx& ctx, int64_t rank, int64_t world, std::span<const uint8_t> unique_id,
                    std::shared_ptr<Comm>& out);
void nccl_unique_id(std::vector<uint8_t>& out);
}  // namespace cuda

std::shared_ptr<Comm> make_nccl_comm(const Ctx& ctx, int64_t rank, int64_t world, std::span<const uint8_t> unique_id) {
  std::shared_ptr<Comm> out;
  BG_DISPATCH(ctx.device, make_nccl_comm(ctx, rank, world, unique_id, out));
  return out;
}

std::vector<uint8_t> nccl_unique_id() {
  std::vector<uint8_t> out;
  BG_CUDA_CALL(nccl_unique_id(out));
  return out;
}

}  // namespace bg
