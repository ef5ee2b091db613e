// Every instruction set that this processor has runs the same tests of the kernels that are written for several.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "hwy/highway.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"

namespace bg {
namespace {

std::vector<float> normal(const char* name, int64_t n) {
  const Random random(3, name, 0);
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(random.normal(i));
  return x;
}

// Runs f once for each instruction set that was compiled in and that this processor has.
template <class F>
void for_each_target(F&& f) {
  const int64_t usable = hwy::SupportedTargets() & static_cast<int64_t>(HWY_TARGETS);
  for (uint64_t rest = static_cast<uint64_t>(usable); rest != 0; rest &= rest - 1) {
    const int64_t target = int64_t{1} << std::countr_zero(rest);
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    f();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(InstructionSets, MatrixProductsEqualTheDefinition) {
  Ctx ctx;
  ctx.pool = std::make_shared<ThreadPool>(2);
  for_each_target([&] {
    for (const auto& [M, N, K] : {std::tuple<int64_t, int64_t, int64_t>{1, 3, 5}, {13, 37, 30}, {101, 140, 530}}) {
      for (int mode = 0; mode < 4; ++mode) {
        const bool ta = mode & 1, tb = mode & 2;
        std::vector<float> a = normal("a", M * K), b = normal("b", K * N), c = normal("c", M * N), before = c;
        gemm(ctx, 1, Tensor(a.data(), ta ? Shape{K, M} : Shape{M, K}, DType::f32, Device::cpu),
             ta ? Op::transpose : Op::none, Tensor(b.data(), tb ? Shape{N, K} : Shape{K, N}, DType::f32, Device::cpu),
             tb ? Op::transpose : Op::none, 0.5, Tensor(c.data(), {M, N}, DType::f32, Device::cpu));
        for (int64_t i = 0; i < M; ++i)
          for (int64_t j = 0; j < N; ++j) {
            const size_t at = static_cast<size_t>(i * N + j);
            double want = 0.5 * static_cast<double>(before[at]);
            for (int64_t k = 0; k < K; ++k)
              want += static_cast<double>(a[static_cast<size_t>(ta ? k * M + i : i * K + k)]) *
                      static_cast<double>(b[static_cast<size_t>(tb ? j * K + k : k * N + j)]);
            ASSERT_NEAR(static_cast<double>(c[at]), want, 1e-5 * std::sqrt(static_cast<double>(K)) * 4);
          }
      }
    }
  });
}

TEST(InstructionSets, AttentionEqualsTheDefinition) {
  Ctx ctx;
  ctx.pool = std::make_shared<ThreadPool>(2);
  const int64_t B = 1, T = 150, H = 2, G = 1, d = 20, window = 70;
  const Shape heads{B, T, H, d}, groups{B, T, G, d};
  // Row 0: float64 by plain loops; then float32 by each instruction set.
  const auto run = [&](DType dtype) {
    const size_t size = size_of(dtype);
    const auto fill = [&](const char* name, Shape shape) {
      std::vector<char> bytes(static_cast<size_t>(shape.numel()) * size);
      const std::vector<float> x = normal(name, shape.numel());
      for (size_t i = 0; i < x.size(); ++i) {
        if (dtype == DType::f64)
          reinterpret_cast<double*>(bytes.data())[i] = static_cast<double>(x[i]);
        else
          reinterpret_cast<float*>(bytes.data())[i] = x[i];
      }
      return bytes;
    };
    std::vector<char> q = fill("q", heads), k = fill("k", groups), v = fill("v", groups), dy = fill("dy", heads), y = q;
    std::vector<char> dq = q, dk = k, dv = v, lse(static_cast<size_t>(B * H * T) * size);
    std::vector<char> scratch(static_cast<size_t>(attention_scratch_bytes(Device::cpu, dtype, B, T, H, d)));
    const auto view = [&](std::vector<char>& x, Shape s) { return Tensor(x.data(), s, dtype, Device::cpu); };
    const Tensor L = view(lse, {B, H, T});
    attention_forward(ctx, view(q, heads), view(k, groups), view(v, groups), window, Tensor(), view(y, heads), L);
    attention_backward(ctx, view(q, heads), view(k, groups), view(v, groups), window, Tensor(), view(y, heads), L,
                       view(dy, heads), view(dq, heads), view(dk, groups), view(dv, groups),
                       Tensor(scratch.data(), {static_cast<int64_t>(scratch.size())}, DType::u8, Device::cpu));
    std::vector<double> out;
    for (std::vector<char>* x : {&y, &dq, &dk, &dv})
      for (size_t i = 0; i < x->size() / size; ++i)
        out.push_back(dtype == DType::f64 ? reinterpret_cast<double*>(x->data())[i]
                                          : static_cast<double>(reinterpret_cast<float*>(x->data())[i]));
    return out;
  };
  const std::vector<double> want = run(DType::f64);
  for_each_target([&] {
    const std::vector<double> got = run(DType::f32);
    double off = 0, size = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      off += (want[i] - got[i]) * (want[i] - got[i]);
      size += want[i] * want[i];
    }
    EXPECT_LT(std::sqrt(off / size), 2e-6);
  });
}

}  // namespace
}  // namespace bg
