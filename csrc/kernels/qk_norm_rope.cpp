#include "kernels/qk_norm_rope.h"

#include "kernels/cpu/body.h"

BG_DECLARE_BODIES(rope_table)
BG_DECLARE_BODIES(qk_norm_rope_forward)
BG_DECLARE_BODIES(qk_norm_rope_backward)

namespace bg {

void rope_table(const Ctx& ctx, double base, int64_t train_len, Tensor table) {
  BG_CHECK(table.rank() == 2 && table.dim(1) % 2 == 0, "rope_table into", table.shape().str());
  BG_CHECK(table.dim(1) != 2 || table.dim(0) <= train_len, "rope_dims = 2 cannot be stretched from", train_len, "to",
           table.dim(0), "positions");
  BG_DISPATCH(table.device(), rope_table(ctx, base, train_len, table));
}
void qk_norm_rope_forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k,
                          Tensor rstd) {
  BG_CHECK(qkv.rank() == 3 && q.rank() == 4 && k.rank() == 4 && qkv.dim(2) == (q.dim(2) + 2 * k.dim(2)) * q.dim(3),
           "qk_norm_rope of", qkv.shape().str(), "to", q.shape().str(), k.shape().str());
  BG_CHECK(rope.dim(0) == qkv.dim(1) && rope.dim(1) <= q.dim(3), "rope table", rope.shape().str(), "for",
           q.shape().str());
  BG_DISPATCH(qkv.device(), qk_norm_rope_forward(ctx, qkv, gain, rope, eps, q, k, rstd));
}
void qk_norm_rope_backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk,
                           Tensor dqkv, Tensor dgain) {
  BG_CHECK(dqkv.shape() == qkv.shape() && gain.numel() == dq.dim(2) && dgain.numel() == gain.numel(),
           "qk_norm_rope backward of", qkv.shape().str());
  BG_DISPATCH(qkv.device(), qk_norm_rope_backward(ctx, qkv, gain, rope, rstd, dq, dk, dqkv, dgain));
}

}  // namespace bg
