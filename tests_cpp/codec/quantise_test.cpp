#include "codec/quantise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/half.h"

namespace bg {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

const std::vector<int64_t> kDims{2, 40000};

std::vector<float> ramp(float top) {
  std::vector<float> w(80000);
  for (size_t i = 0; i < w.size(); ++i) w[i] = top * static_cast<float>(i % 40000) / 39999.0f;
  return w;
}

TEST(Quantise, TheErrorOfAMatrixIsAtMostHalfAStepAndZerosStayZero) {
  ThreadPool pool(2);
  const std::vector<float> w = ramp(3.1f);
  const QuantisedTensor t = quantise(pool, "w", w, kDims, Codec::matrix, Scheme::int6_mixed);
  ASSERT_TRUE(t.is_quantised);
  std::vector<float> back(w.size());
  dequantise(pool, t.q, t.scale, back);
  const float step = float_from_half(t.scale[0]);
  EXPECT_NEAR(step, 0.1f, 1e-4f);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_LE(std::fabs(back[i] - w[i]), 0.5001f * step) << i;
  EXPECT_EQ(t.q[0], 0);
}

TEST(Quantise, SmallRowsKeepTheSmallestStep) {
  ThreadPool pool(1);
  const QuantisedTensor t = quantise(pool, "w", ramp(0.01f), kDims, Codec::matrix, Scheme::int6_mixed);
  EXPECT_EQ(t.scale[1], half_from_float(1.0f / 31.0f));
}

TEST(Quantise, TheSchemeAndTheDeclarationDecideWhatStaysFloat) {
  ThreadPool pool(1);
  const auto quantised = [&](size_t n, Codec codec, Scheme scheme) {
    const std::vector<int64_t> dims{1, static_cast<int64_t>(n)};
    return quantise(pool, "w", std::vector<float>(n, 0.5f), dims, codec, scheme).is_quantised;
  };
  EXPECT_FALSE(quantised(65536, Codec::matrix, Scheme::int6_mixed));
  EXPECT_TRUE(quantised(65537, Codec::matrix, Scheme::int6_mixed));
  EXPECT_TRUE(quantised(65537, Codec::other, Scheme::int6_mixed));
  EXPECT_TRUE(quantised(65537, Codec::matrix, Scheme::int6_byte256));
  EXPECT_FALSE(quantised(65537, Codec::other, Scheme::int6_byte256));
}

TEST(Quantise, WhatArtifactsLeaveOutIsRefused) {
  ThreadPool pool(1);
  const std::vector<int64_t> dims{2};
  EXPECT_THAT([&] { quantise(pool, "aid", std::vector<float>(2), dims, Codec::left_out, Scheme::int6_mixed); },
              ThrowsMessage<InvalidArgument>(HasSubstr("tensor aid")));
}

TEST(Quantise, WhatIsNotANumberIsRefusedByName) {
  ThreadPool pool(1);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 7e4f}) {
    const std::vector<float> w{1.0f, bad};
    const std::vector<int64_t> dims{2};
    EXPECT_THAT([&] { quantise(pool, "gain", w, dims, Codec::other, Scheme::int6_mixed); },
                ThrowsMessage<NumericsError>(::testing::AllOf(HasSubstr("tensor gain"), HasSubstr("element 1"))));
  }
}

}  // namespace
}  // namespace bg
