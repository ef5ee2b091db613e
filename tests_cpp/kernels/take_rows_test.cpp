#include "kernels/take_rows.h"

#include <gtest/gtest.h>

#include "testing/tensors.h"

namespace bg {
namespace {

void prove(const Ctx& ctx, DType dtype, int64_t D) {
  const Owned x = Owned::normal(dtype, {4, D}, "x", 1, 0, dtype);
  const std::vector<int32_t> index = {3, -1, 0, 3, 1};
  Owned y(dtype, {5, D});
  y.fill(kPoison);
  const Owned out = y.to(ctx);
  take_rows(ctx, x.to(ctx), Owned::ids({5}, index).to(ctx), out);
  const Owned got = out.host(ctx);
  for (int64_t n = 0; n < 5; ++n)
    for (int64_t i = 0; i < D; ++i) ASSERT_EQ(got.at(n * D + i), index[n] < 0 ? 0 : x.at(index[n] * D + i));
}

TEST(TakeRows, CopiesTheRowsNamedAndZeroesTheOthers) {
  for (DType dtype : {DType::f32, DType::f64})
    for (int64_t D : {1, 17, 64}) prove(context(dtype), dtype, D);
}

TEST(TakeRows, OnTheGpuDoesTheSame) {
  BG_NEEDS_GPU();
  for (DType dtype : {DType::f32, DType::bf16})
    for (int64_t D : {1, 17, 64, 512}) prove(cuda_context(dtype), dtype, D);
}

TEST(TakeRows, RefusesShapesThatDisagree) {
  const Ctx ctx = context(DType::f32);
  const Owned x(DType::f32, {4, 3}), y(DType::f32, {2, 3}), wide(DType::f32, {2, 4});
  EXPECT_THROW(take_rows(ctx, x, Owned::ids({3}, {0, 1, 2}), y), InvalidArgument);
  EXPECT_THROW(take_rows(ctx, x, Owned::ids({2}, {0, 1}), wide), InvalidArgument);
}

}  // namespace
}  // namespace bg
