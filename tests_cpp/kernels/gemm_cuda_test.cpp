// Products on the GPU against the CPU's in float64, on operands rounded alike. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/cuda_libraries.h"
#include "base/memory.h"
#include "base/random.h"
#include "kernels/cuda/gemm.cuh"
#include "kernels/gemm.h"
#include "tensor/buffer.h"
#include "testing/tensors.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

uint16_t bf16_bits(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1)) >> 16);  // no NaN here
}
float from_bf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// A matrix on the GPU with `gap` unused elements after each row, and its values, rounded to the dtype, as float64 here.
struct Both {
  Ctx ctx;
  DType dtype;
  int64_t rows, cols, gap;
  std::vector<double> host;
  Buffer memory;

  Both(const Ctx& ctx, DType dtype, int64_t rows, int64_t cols, int64_t gap, const char* name)
      : ctx(ctx), dtype(dtype), rows(rows), cols(cols), gap(gap), host(static_cast<size_t>(rows * (cols + gap))) {
    memory = Buffer(std::max<size_t>(host.size(), 1) * size_of(dtype), Device::cuda);
    const Random random(1, name);
    for (size_t i = 0; i < host.size(); ++i) {
      const float x = static_cast<float>(random.normal(i));
      host[i] = dtype == DType::bf16 ? from_bf16(bf16_bits(x)) : x;
    }
    upload();
  }
  void upload() {
    std::vector<uint16_t> narrow;
    std::vector<float> wide;
    for (double x : host)
      if (dtype == DType::bf16)
        narrow.push_back(bf16_bits(static_cast<float>(x)));
      else
        wide.push_back(static_cast<float>(x));
    const void* from = dtype == DType::bf16 ? static_cast<const void*>(narrow.data()) : wide.data();
    copy_bytes(ctx, memory.data(), Device::cuda, from, Device::cpu, host.size() * size_of(dtype));
  }
  std::vector<double> download() const {
    std::vector<char> bytes(host.size() * size_of(dtype));
    copy_bytes(ctx, bytes.data(), Device::cpu, memory.data(), Device::cuda, bytes.size());
    std::vector<double> out;
    for (size_t i = 0; i < host.size(); ++i) {
      if (dtype == DType::bf16) {
        uint16_t x;
        std::memcpy(&x, &bytes[2 * i], 2);
        out.push_back(from_bf16(x));
      } else {
        float x;
        std::memcpy(&x, &bytes[4 * i], 4);
        out.push_back(x);
      }
    }
    return out;
  }
  Tensor view() const { return Tensor(memory.data(), {rows, cols + gap}, dtype, Device::cuda).slice(1, 0, cols); }
  Tensor host_view() { return Tensor(host.data(), {rows, cols + gap}, DType::f64, Device::cpu).slice(1, 0, cols); }
};

struct Kind {
  const char* name;
  DType in, out;
  double tolerance;
};
constexpr Kind kKinds[] = {{"float32", DType::f32, DType::f32, tolerance::kGemmFloat32},
                           {"bf16 to float32", DType::bf16, DType::f32, tolerance::kGemmBf16ToFloat32},
                           {"bf16", DType::bf16, DType::bf16, tolerance::kGemmBf16}};
constexpr int64_t kShapes[][3] = {{1, 1, 1},      {1, 3, 7},       {7, 1, 3},       {3, 7, 1},      {3, 3, 3},
                                  {7, 17, 33},    {17, 33, 7},     {33, 7, 17},     {260, 33, 17},  {17, 260, 33},
                                  {33, 17, 260},  {260, 260, 260}, {512, 1, 260},   {1, 512, 260},  {260, 512, 1},
                                  {512, 512, 33}, {512, 260, 512}, {512, 512, 512}, {33, 40, 3000}, {5, 6, 0}};

enum class Way { gemm, gemm_add, plain };

void compare(const Ctx& ctx, const Kind& kind, Way way, int64_t M, int64_t N, int64_t K, int mode, double alpha,
             double beta, int64_t gap) {
  const bool ta = mode & 1, tb = mode & 2;
  const Op op_a = ta ? Op::transpose : Op::none, op_b = tb ? Op::transpose : Op::none;
  Both a(ctx, kind.in, ta ? K : M, ta ? M : K, gap, "a"), b(ctx, kind.in, tb ? N : K, tb ? K : N, gap, "b");
  Both c(ctx, kind.out, M, N, gap, "c"), add(ctx, kind.out, M, N, gap + 1, "add");
  const auto run = [&] {
    c.upload();
    if (way == Way::gemm)
      gemm(ctx, alpha, a.view(), op_a, b.view(), op_b, beta, c.view());
    else if (way == Way::gemm_add)
      gemm_add(ctx, alpha, a.view(), op_a, b.view(), op_b, add.view(), c.view());
    else if constexpr (kBuiltWithCuda)
      cuda::gemm_plain(ctx, alpha, a.view(), op_a, b.view(), op_b, beta, c.view(), c.view());
    return c.download();
  };
  const std::vector<double> got = run(), again = run();
  std::vector<double> want = c.host;
  const Tensor result = Tensor(want.data(), {M, N + gap}, DType::f64, Device::cpu).slice(1, 0, N);
  if (way == Way::gemm_add)
    for (int64_t i = 0; i < M; ++i)
      for (int64_t j = 0; j < N; ++j)
        want[static_cast<size_t>(i * (N + gap) + j)] = add.host[static_cast<size_t>(i * (N + gap + 1) + j)];
  gemm(context(DType::f64), alpha, a.host_view(), op_a, b.host_view(), op_b, way == Way::gemm_add ? 1 : beta, result);
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
    if (static_cast<int64_t>(i) % (N + gap) >= N) {
      ASSERT_EQ(got[i], c.host[i]) << "a gap between rows was written";
    }
  }
  EXPECT_LE(std::sqrt(difference), kind.tolerance * std::sqrt(size))
      << kind.name << " way " << static_cast<int>(way) << ": " << M << "x" << N << "x" << K << " mode " << mode
      << " alpha " << alpha << " beta " << beta << " gap " << gap;
  EXPECT_EQ(std::memcmp(got.data(), again.data(), got.size() * sizeof(double)), 0) << "two runs differ";
}

TEST(GemmCuda, EqualsTheFloat64ProductForOddShapesStridesTransposesAndScalings) {
  if (const std::string why = gpu_info().unusable; !why.empty()) GTEST_SKIP() << "needs a GPU: " << why;
  for (const CudaLibraryReport& r : cuda_library_report())
    std::printf("%s %s %s%s\n", r.name.c_str(), r.version.c_str(), r.path.c_str(), r.problem.c_str());
  const double scalings[][2] = {{1, 0}, {-0.5, 1}, {2, 0.25}};
  for (const Kind& kind : kKinds) {
    const Ctx ctx = make_ctx(Device::cuda, kind.in, 2);
    for (const auto& [M, N, K] : kShapes)
      for (int mode = 0; mode < 4; ++mode)
        for (int64_t gap : {0, 3}) {
          for (const auto& [alpha, beta] : scalings) {
            compare(ctx, kind, Way::gemm, M, N, K, mode, alpha, beta, gap);
            compare(ctx, kind, Way::plain, M, N, K, mode, alpha, beta, gap);
          }
          compare(ctx, kind, Way::gemm_add, M, N, K, mode, 0.75, 1, gap);
          if (testing::Test::HasFailure()) return;
        }
  }
}

TEST(GemmCuda, ZeroBetaDoesNotReadTheOldContents) {
  if (const std::string why = gpu_info().unusable; !why.empty()) GTEST_SKIP() << "needs a GPU: " << why;
  for (const Kind& kind : kKinds) {
    const Ctx ctx = make_ctx(Device::cuda, kind.in, 1);
    for (int64_t n : {5, 64}) {
      Both a(ctx, kind.in, n, n, 0, "a"), b(ctx, kind.in, n, n, 0, "b"), c(ctx, kind.out, n, n, 0, "c");
      std::vector<uint8_t> nan(c.host.size() * size_of(kind.out), 0xff);
      copy_bytes(ctx, c.memory.data(), Device::cuda, nan.data(), Device::cpu, nan.size());
      gemm(ctx, 1, a.view(), Op::none, b.view(), Op::none, 0, c.view());
      for (double x : c.download()) ASSERT_TRUE(std::isfinite(x)) << kind.name;
    }
  }
}

TEST(GemmCuda, LongSumsAddUpInFloat32) {
  if (const std::string why = gpu_info().unusable; !why.empty()) GTEST_SKIP() << "needs a GPU: " << why;
  const Ctx ctx = make_ctx(Device::cuda, DType::bf16, 2);
  // The shape of a weight gradient: the library may split the sum.
  for (const Kind& kind : kKinds)
    compare(ctx, {kind.name, kind.in, kind.out, tolerance::kGemmBf16}, Way::gemm, 96, 64, 40000, 1, 1, 1, 0);
}

}  // namespace
}  // namespace bg
