#include "model/bigram.h"

#include "kernels/gemm.h"
#include "kernels/segment.h"
#include "model/family.h"

namespace bg {

void Bigram::declare(ParamTable& p) {
  const int64_t N = config_.bigram_vocab_size, W = config_.bigram_dim, D = config_.model_dim;
  const std::string name = names_of(config_).bigram;
  const bool byte260 = config_.family == "byte260";
  p.param(embed_, name + ".embed.weight", {N, W}, config_.bigram_init == "zero" ? Init::zeros() : Init::normal(0.01),
          byte260 ? Group::table : Group::scalar, Codec::other);
  p.param(proj_, name + ".proj.weight", {D, W}, byte260 ? Init::zeros() : linear_init(W),
          byte260 ? Group::matrix : Group::scalar, Codec::other);
}

void Bigram::reserve(Plan& plan, int64_t B, int64_t T) {
  const int64_t K = config_.patch_size, W = config_.bigram_dim;
  plan.keep(buckets_, "bigram.buckets", {B * T}, DType::i32);
  plan.keep(rows_, "bigram.rows", {B, T, W});
  if (K > 1) plan.keep(means_, "bigram.means", {B, T / K, W});
  plan.scratch(out_, "bigram.out", {B * (T / K), config_.model_dim});
  plan.backward(drows_, "bigram.drows", {B, T, W});
  if (K > 1) plan.backward(dmeans_, "bigram.dmeans", {B, T / K, W});
}

Flops Bigram::flops(int64_t B, int64_t T) const {
  return linear_flops(B * (T / config_.patch_size), config_.bigram_dim * config_.model_dim);
}

Tensor Bigram::forward(const Ctx& ctx, Tensor ids) {
  const int64_t K = config_.patch_size, W = config_.bigram_dim, N = ids.numel();
  bigram_hash(ctx, ids, config_.bigram_hash == "xor" ? BigramHash::xor_ : BigramHash::product,
              config_.bigram_vocab_size, buckets_);
  embedding_forward(ctx, buckets_, embed_.value, rows_.reshape({N, W}));
  if (K > 1) segment_mean_forward(ctx, rows_, Segments::ending_at_multiples(rows_.dim(1), K), means_);
  return project(ctx);
}

Tensor Bigram::project(const Ctx& ctx) {
  linear_forward(ctx, (config_.patch_size > 1 ? means_ : rows_).reshape({out_.dim(0), config_.bigram_dim}),
                 proj_.operand, out_);
  return out_;
}

void Bigram::backward(const Ctx& ctx, Tensor dp) {
  const int64_t K = config_.patch_size, W = config_.bigram_dim, N = buckets_.numel();
  const Tensor in = K > 1 ? means_ : rows_, din = K > 1 ? dmeans_ : drows_;
  linear_backward_weight(ctx, in.reshape({N / K, W}), dp, proj_.grad);
  linear_backward_input(ctx, dp, proj_.operand, din.reshape({N / K, W}));
  if (K > 1) segment_mean_backward(ctx, dmeans_, Segments::ending_at_multiples(drows_.dim(1), K), drows_);
  embedding_backward(ctx, buckets_, drows_.reshape({N, W}), embed_.grad);
}

}  // namespace bg
