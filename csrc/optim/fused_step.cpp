#include "optim/fused_step.h"

namespace bg {
namespace cpu {
void make_fused_step(const Config&, const Ctx&, ParamTable&, Tensor, Tensor, Tensor, double, Comm*,
                     std::unique_ptr<FusedStep>& out) {
  out = nullptr;
}
}  // namespace cpu

namespace cuda {  // optim/cuda/fused_step.cu
void make_fused_step(const Config& config, const Ctx& ctx, ParamTable& params, Tensor first, Tensor second, Tensor ema,
                     double ema_weight, Comm* comm, std::unique_ptr<FusedStep>& out);
}  // namespace cuda

std::unique_ptr<FusedStep> make_fused_step(const Config& config, const Ctx& ctx, ParamTable& params, Tensor first,
                                           Tensor second, Tensor ema, double ema_weight, Comm* comm) {
  std::unique_ptr<FusedStep> out;
  BG_DISPATCH(ctx.device, make_fused_step(config, ctx, params, first, second, ema, ema_weight, comm, out));
  return out;
}

}  // namespace bg
