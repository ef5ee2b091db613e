#include "base/device_measure.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "tensor/buffer.h"
#include "testing/tensors.h"

namespace bg {
namespace {

TEST(DeviceMeasure, TimesEachCall) {
  const Ctx ctx = make_ctx(Device::cpu, DType::f32, 1);
  int calls = 0;
  const auto wait = [&] { std::this_thread::sleep_for(std::chrono::milliseconds(2 * ++calls)); };
  const std::vector<double> seconds = time_on_device(ctx, wait, 3);
  ASSERT_EQ(seconds.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_GE(seconds[i], 0.002 * static_cast<double>(i + 1));
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(device_bytes_taken(ctx), 0u);
}

TEST(DeviceMeasureCuda, TimesTheDeviceAndSeesItsMemory) {
  BG_NEEDS_GPU();
  const Ctx ctx = make_ctx(Device::cuda, DType::f32, 1);
  constexpr size_t kBytes = size_t{1} << 30;
  const size_t before = device_bytes_taken(ctx);
  const Buffer memory(kBytes, Device::cuda);
  EXPECT_GE(device_bytes_taken(ctx), before + kBytes);
  // The shortest of many: a GPU that wakes up, or that others use as well, only makes calls longer.
  const auto shortest = [&](int times) {
    const std::vector<double> seconds = time_on_device(
        ctx,
        [&, times] {
          for (int i = 0; i < times; ++i) clear_bytes(ctx, Device::cuda, memory.data(), kBytes);
        },
        20);
    return *std::min_element(seconds.begin(), seconds.end());
  };
  const double one = shortest(1), four = shortest(4);
  EXPECT_GT(one, static_cast<double>(kBytes) / 10e12);  // no memory writes 10 TB/s
  EXPECT_NEAR(four / one, 4, 1);
}

}  // namespace
}  // namespace bg
