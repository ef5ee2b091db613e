#include "base/streams.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/memory.h"
#include "tensor/buffer.h"
#include "testing/tensors.h"

namespace bg {
namespace {

TEST(Streams, NothingIsPendingOnTheCpu) {
  const Ctx ctx = make_ctx(Device::cpu, DType::f32, 1);
  EXPECT_EQ(device_index(ctx), 0);
  EXPECT_EQ(stream_handle(ctx), 0u);
  let_wait(ctx, 1);
  wait_for(ctx, 1);
  wait_for_all(ctx);
}

TEST(Streams, ABuildWithoutCudaReadsNoGpu) {
  if (kBuiltWithCuda) GTEST_SKIP() << "this build has CUDA kernels";
  char byte = 0;
  EXPECT_THROW(read_device(0, 0, &byte, &byte, 1), InvalidArgument);
}

// A gibibyte of clearing, many times over: some tens of milliseconds on the context's stream.
void keep_busy(const Ctx& ctx, const Buffer& memory) {
  for (int i = 0; i < 60; ++i) clear_bytes(ctx, Device::cuda, memory.data(), memory.size_bytes());
}

TEST(StreamsCuda, OneContextReadsWhatAnotherWroteBeforeItWasMadeToWait) {
  BG_NEEDS_GPU();
  const Ctx ours = make_ctx(Device::cuda, DType::f32, 1), theirs = make_ctx(Device::cuda, DType::f32, 1);
  EXPECT_EQ(device_index(ours), 0);
  EXPECT_GT(stream_handle(ours), 2u);
  EXPECT_NE(stream_handle(ours), stream_handle(theirs));
  constexpr size_t kCount = 1 << 20;
  const Buffer busy(size_t{1} << 30, Device::cuda), memory(kCount * 4, Device::cuda), copy(kCount * 4, Device::cuda);
  std::vector<float> got(kCount);
  float value = 0;
  for (const bool by_reader : {true, false, true, false}) {
    const std::vector<float> values(kCount, ++value);
    const Staging host(ours, kCount * 4);
    std::copy(values.begin(), values.end(), static_cast<float*>(host.data()));
    keep_busy(ours, busy);
    enqueue_copy(ours, memory.data(), host.data(), kCount * 4);
    if (by_reader)
      wait_for(theirs, stream_handle(ours));
    else
      let_wait(ours, stream_handle(theirs));
    enqueue_copy(theirs, copy.data(), memory.data(), kCount * 4);
    read_device(0, stream_handle(theirs), got.data(), copy.data(), kCount * 4);
    EXPECT_EQ(got, values) << (by_reader ? "the reader waits" : "the writer lets it wait");
    wait_for_all(ours);
  }
}

TEST(StreamsCuda, TheDefaultStreamsHaveNumbers) {
  BG_NEEDS_GPU();
  const Ctx ctx = make_ctx(Device::cuda, DType::f32, 1);
  const Buffer busy(size_t{1} << 30, Device::cuda), memory(4, Device::cuda);
  int value = 40;
  for (const StreamHandle stream : {0, 1, 2}) {
    const Staging host(ctx, 4);
    *static_cast<int*>(host.data()) = ++value;
    keep_busy(ctx, busy);
    enqueue_copy(ctx, memory.data(), host.data(), 4);
    let_wait(ctx, stream);
    int got = 0;
    read_device(0, stream, &got, memory.data(), 4);
    EXPECT_EQ(got, value) << "stream " << stream;
  }
}

}  // namespace
}  // namespace bg
