// Every layer of the registry, one line each; what is proved stands in testing/layer_case.h.
#include <algorithm>
#include <memory>

#include "kernels/qk_norm_rope.h"
#include "model/layer.h"
#include "tensor/transfer.h"
#include "testing/layer_case.h"
#include "testing/tensors.h"

namespace bg {

BG_PROVE_LAYER(Attention, "attention")
BG_PROVE_LAYER(Mlp, "mlp")

// Attention over six positions, of which those of a run of three see each other.
struct AttentionInRuns {
  explicit AttentionInRuns(int64_t window = 0) : ctx(context(DType::f64, 1)) {
    stack = layer_cases().front().stack;
    stack.windows = {window};
    layer = make_layer("attention", stack, {0, "blocks.0."});
    layer->declare(params);
    params.param(scale, "scale", {stack.D}, Init::ones(), Group::scalar, Codec::other);
    params.allocate(ctx, 0);
    for (const ParamSpec& s : params.specs()) {
      std::vector<double> values;
      for (int64_t i = 0; i < s.shape.numel(); ++i) values.push_back(0.2 * Random(3, s.name).normal(i));
      upload(ctx, values, ParamTable::view(s, params.values()));
    }
    params.refresh_operands(ctx);
    plan = std::make_unique<Plan>(ctx, Purpose::infer);
    grid.B = 1, grid.T = 6;
    plan->keep(grid.rope, "rope", {grid.T, stack.rope_dims});
    plan->keep(grid.first, "first", {1, grid.T}, DType::i32);
    plan->keep(grid.last, "last", {1, grid.T}, DType::i32);
    for (Tensor* t : {&u, &y}) plan->keep(*t, "stream", {1, grid.T, stack.D});
    layer->reserve(*plan, {grid.B, grid.T});
    plan->commit();
    rope_table(ctx, 10000, 1 << 20, grid.rope);
    for (int64_t t = 0; t < grid.T; ++t) {
      grid.first.ptr<int32_t>()[t] = static_cast<int32_t>(t / 3 * 3);
      grid.last.ptr<int32_t>()[t] = static_cast<int32_t>(t / 3 * 3 + 2);
    }
    std::vector<double> values;
    for (int64_t i = 0; i < u.numel(); ++i) values.push_back(Random(3, "u").normal(i));
    upload(ctx, values, u);
  }
  std::vector<double> forward() {
    layer->forward(ctx, u, grid, scale, u, y);
    return download(ctx, y);
  }
  Ctx ctx;
  StackSpec stack;
  ParamTable params;
  Param scale;
  std::unique_ptr<Layer> layer;
  std::unique_ptr<Plan> plan;
  Grid grid;
  Tensor u, y;
};

TEST(AttentionLayer, ReadsTheRunThatItsGridNames) {
  AttentionInRuns attention;
  const std::vector<double> before = attention.forward();
  const int64_t D = attention.stack.D;
  attention.u.ptr<double>()[2 * D + 1] += 1;  // of the last position of the first run
  const std::vector<double> after = attention.forward();
  for (int64_t t = 0; t < 6; ++t)
    EXPECT_EQ(std::equal(before.begin() + t * D, before.begin() + (t + 1) * D, after.begin() + t * D), t > 2)
        << "position " << t;
}

TEST(AttentionLayer, TakesNoWindowAndNoDecodingWhereItsGridNamesTheKeys) {
  AttentionInRuns windowed(3), decoding;
  EXPECT_THROW(windowed.forward(), InvalidArgument);
  decoding.grid.decoding.kind = Decoding::Kind::fill;
  EXPECT_THROW(decoding.forward(), InvalidArgument);
}

}  // namespace bg
