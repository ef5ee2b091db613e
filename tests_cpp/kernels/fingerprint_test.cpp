#include "kernels/fingerprint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tensor/buffer.h"
#include "testing/op_case.h"
#include "testing/tensors.h"

namespace bg {
namespace {

uint64_t fingerprint(std::vector<float> values) {
  Ctx ctx;
  ctx.pool = std::make_shared<ThreadPool>(2);
  const Tensor x(values.data(), {static_cast<int64_t>(values.size())}, DType::f32, Device::cpu);
  return fingerprints(ctx, std::span(&x, 1))[0];
}

// The first outputs of the generator SplitMix64 with seed 0, as its authors' program prints them: element i of zeros
// mixes (i + 1) times the same constant.
TEST(Fingerprint, OfZerosIsTheSumOfSplitMixsFirstOutputs) {
  EXPECT_EQ(fingerprint({0}), 0xe220a8397b1dcdafu);
  EXPECT_EQ(fingerprint({0, 0}), 0xe220a8397b1dcdafu + 0x6e789e6aa1b965f4u);
  EXPECT_EQ(fingerprint({0, 0, 0}), 0xe220a8397b1dcdafu + 0x6e789e6aa1b965f4u + 0x06c45d188009454fu);
}

TEST(Fingerprint, SeesOneBitTwoSwappedElementsAndTheSignOfZero) {
  const uint64_t whole = fingerprint({1, 2, 3});
  EXPECT_NE(fingerprint({1, 3, 2}), whole);
  EXPECT_NE(fingerprint({1, 2, std::nextafter(3.0f, 4.0f)}), whole);
  EXPECT_NE(fingerprint({0.0f}), fingerprint({-0.0f}));
  EXPECT_EQ(fingerprint({}), 0u);
}

TEST(Fingerprint, OnTheGpuIsThatOfTheCpu) {
  BG_NEEDS_GPU();
  const Ctx& gpu = cuda_context(DType::f32);
  for (const int64_t n : {1, 255, 1000003}) {
    std::vector<float> host(static_cast<size_t>(n));
    for (size_t i = 0; i < host.size(); ++i) host[i] = std::sin(static_cast<float>(i));
    const Buffer memory(host.size() * 4, Device::cuda);
    copy_bytes(gpu, memory.data(), Device::cuda, host.data(), Device::cpu, host.size() * 4);
    const Tensor x(memory.data(), {n}, DType::f32, Device::cuda);
    EXPECT_EQ(fingerprints(gpu, std::span(&x, 1))[0], fingerprint(host)) << n;
  }
}

}  // namespace
}  // namespace bg
