#include "tensor/init.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace bg {
namespace {

TEST(Init, IsAnyFunctionOfRandomNumbersAndElement) {
  // The state matrix of Mamba, A[c, n] = n + 1, kept as its logarithm (Gu and Dao 2023, arXiv:2312.00752, 3.6).
  const Init a_log = Init::each(
      [](const Random&, int64_t i, const Shape& shape) { return std::log(static_cast<double>(i % shape[1] + 1)); });
  EXPECT_EQ(a_log.draw(Random(1, "a"), {2, 3}),
            (std::vector<double>{0, std::log(2.0), std::log(3.0), 0, std::log(2.0), std::log(3.0)}));
  // Its step sizes: uniform in log space between 0.001 and 0.1, stored as the inverse of softplus.
  const Init dt_bias = Init::each([](const Random& random, int64_t i, const Shape&) {
    const double dt = std::exp(std::log(0.001) + random.uniform(i) * (std::log(0.1) - std::log(0.001)));
    return dt + std::log(-std::expm1(-dt));
  });
  std::vector<double> steps = dt_bias.draw(Random(1, "dt"), {20001});
  EXPECT_EQ(dt_bias.draw(Random(1, "dt"), {20001}), steps);
  EXPECT_NE(dt_bias.draw(Random(2, "dt"), {20001}), steps);
  for (double& v : steps) v = std::log1p(std::exp(v));  // softplus
  std::sort(steps.begin(), steps.end());
  EXPECT_GE(steps.front(), 0.001 * (1 - 1e-9));
  EXPECT_LE(steps.back(), 0.1 * (1 + 1e-9));
  // The median of log-uniform numbers is the geometric mean of their bounds; it scatters by ln(100) / (2 sqrt(n)).
  EXPECT_NEAR(std::log(steps[10000]), std::log(0.01), 5 * std::log(100.0) / (2 * std::sqrt(20001.0)));
}

TEST(Init, MayFillAWholeTensorAtOnce) {
  const Init centred = Init::whole([](const Random& random, const Shape& shape, std::span<double> out) {
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] = random.normal(i);
    for (double& v : out) v -= sum / static_cast<double>(shape.numel());
  });
  double sum = 0, square = 0;
  for (double v : centred.draw(Random(3, "w"), {7, 11})) sum += v, square += v * v;
  EXPECT_NEAR(sum, 0, 1e-12);
  EXPECT_GT(square, 1);
}

TEST(Init, OfANumberWithoutDimensionsIsOneValue) {
  EXPECT_EQ(Init::constant(0.05).draw(Random(0, "scale"), {}), std::vector<double>{0.05});
  EXPECT_TRUE(Init::ones().draw(Random(0, "none"), {0, 4}).empty());
}

}  // namespace
}  // namespace bg
