#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <functional>

#include "testing/op_case.h"

namespace bg {
namespace {

OpCase embedding(int64_t N, int64_t V, int64_t D) {
  OpCase c;
  c.name = words("embedding", N, V, D);
  c.inputs = {parameter("table", {V, D})};
  c.outputs = {{{N, D}}};
  const auto ids = [=] { return Owned::random_ids({N}, 0, V - 1, "ids"); };
  c.forward = [=](OpRun& r) {
    r.kept.push_back(ids().to(r.ctx));
    embedding_forward(r.ctx, r.kept[0], r.in[0], r.out[0]);
  };
  c.backward = [](OpRun& r) { embedding_backward(r.ctx, r.kept[0], r.dout[0], r.din[0]); };
  c.formula = [=](const Lists& in) {
    const Owned rows = ids();
    std::vector<double> y;
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < D; ++i) y.push_back(in[0][rows.view().ptr<int32_t>()[n] * D + i]);
    return Lists{y};
  };
  return c;
}

std::vector<OpCase> small() {
  return {embedding(1, 1, 1), embedding(7, 3, 3), embedding(33, 5, 17), embedding(4, 9, 70)};
}
std::vector<OpCase> large() {
  return {embedding(512, 260, 512), embedding(700, 4096, 33)};
}

BG_PROVE_OP(Embedding, small(), large())
BG_PROVE_CUDA(Embedding,
              (std::vector<OpCase>{embedding(9001, 260, 512), embedding(3000, 4096, 128), embedding(5000, 260, 5),
                                   embedding(1025, 3, 100), embedding(12, 260, 768)}))

// The same bits from both devices, for ids in low..high.
void expect_equal_ids(Shape shape, int64_t low, int64_t high,
                      const std::function<void(const Ctx&, Tensor, Tensor)>& op) {
  const Ctx& gpu = cuda_context(DType::bf16);
  const Owned ids = Owned::random_ids(shape, low, high, "ids"), want = Owned::random_ids(shape, 0, 9, "before"),
              on_gpu = ids.to(gpu), out = want.to(gpu);
  op(context(DType::f32), ids, want);
  op(gpu, on_gpu, out);
  EXPECT_TRUE(out.host(gpu).bits() == want.bits()) << shape.str();
  EXPECT_TRUE(on_gpu.host(gpu).bits() == ids.bits()) << "the ids changed";
}
TEST(BigramHash, IsTheSameOnCuda) {
  BG_NEEDS_GPU();
  for (BigramHash kind : {BigramHash::xor_, BigramHash::product})
    for (int64_t buckets : {2, 4095, 4096})
      for (const Shape& shape : {Shape{1, 1}, Shape{7, 33}, Shape{3, 5000}})
        expect_equal_ids(shape, 0, 259,
                         [&](const Ctx& ctx, Tensor in, Tensor out) { bigram_hash(ctx, in, kind, buckets, out); });
}
TEST(DocumentStarts, AreTheSameOnCuda) {
  BG_NEEDS_GPU();
  for (int64_t most : {3, 100, 3000})  // a bos every so many positions
    for (const Shape& shape : {Shape{1, 1}, Shape{7, 33}, Shape{3, 5000}, Shape{2, 1024}})
      expect_equal_ids(shape, 0, most,
                       [&](const Ctx& ctx, Tensor in, Tensor out) { document_starts(ctx, in, 1, out); });
}

// ((36313 id) xor (27191 before)) mod (buckets - 1), by hand: for (97, 98): 36313*98 = 3558674, 27191*97 = 2637527.
TEST(BigramHash, XorTakesTheLastBucketAtTheStartOfEachRow) {
  const Owned ids = Owned::ids({2, 3}, {97, 98, 0, 259, 259, 1});
  Owned out = Owned::ids({2, 3}, {-1, -1, -1, -1, -1, -1});
  bigram_hash(context(DType::f32), ids, BigramHash::xor_, 4096, out);
  const std::vector<int32_t> expected = {4095,
                                         (3558674 ^ 2637527) % 4095,
                                         (0 ^ (27191 * 98)) % 4095,
                                         4095,
                                         ((36313 * 259) ^ (27191 * 259)) % 4095,
                                         (36313 ^ (27191 * 259)) % 4095};
  EXPECT_EQ(std::vector<int32_t>(out.view().ptr<int32_t>(), out.view().ptr<int32_t>() + 6), expected);
}

TEST(BigramHash, ProductTakesZeroBeforeTheRow) {
  const Owned ids = Owned::ids({2, 2}, {97, 98, 255, 255});
  Owned out = Owned::ids({2, 2}, {-1, -1, -1, -1});
  bigram_hash(context(DType::f32), ids, BigramHash::product, 4096, out);
  const std::vector<int32_t> expected = {97, (256 * 97 + 98) % 4096, 255, (256 * 255 + 255) % 4096};
  EXPECT_EQ(std::vector<int32_t>(out.view().ptr<int32_t>(), out.view().ptr<int32_t>() + 4), expected);
}

TEST(BigramHash, StaysInsideTheTableForEveryPairAndSize) {
  std::vector<int32_t> pairs;
  for (int a = 0; a < 260; ++a)
    for (int b = 0; b < 260; ++b) pairs.insert(pairs.end(), {a, b});
  const int64_t N = static_cast<int64_t>(pairs.size()) / 2;
  const Owned ids = Owned::ids({N, 2}, pairs);
  Owned out = Owned::ids({N, 2}, pairs);
  for (int64_t buckets : {2, 3, 7, 4096})
    for (BigramHash kind : {BigramHash::xor_, BigramHash::product}) {
      bigram_hash(context(DType::f32), ids, kind, buckets, out);
      for (int64_t i = 0; i < 2 * N; ++i) {
        ASSERT_GE(out.view().ptr<int32_t>()[i], 0);
        ASSERT_LT(out.view().ptr<int32_t>()[i], buckets);
      }
    }
}

TEST(DocumentStarts, AreTheLastBosAndZeroBeforeTheFirst) {
  const Owned ids = Owned::ids({2, 6}, {5, 1, 6, 7, 1, 1, 1, 9, 9, 9, 9, 1});
  Owned out = Owned::ids({2, 6}, std::vector<int32_t>(12, -1));
  document_starts(context(DType::f32), ids, 1, out);
  const std::vector<int32_t> expected = {0, 1, 1, 1, 4, 5, 0, 0, 0, 0, 0, 5};
  EXPECT_EQ(std::vector<int32_t>(out.view().ptr<int32_t>(), out.view().ptr<int32_t>() + 12), expected);
}

}  // namespace
}  // namespace bg
