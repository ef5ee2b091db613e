// The optimiser on the GPU against the CPU's: the same gradients, the same numbers. Skipped where there is no GPU.
#include "optim/fused_step.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "base/memory.h"
#include "base/random.h"
#include "base/recording.h"
#include "optim/average.h"
#include "optim/newton_schulz.h"
#include "optim/optimizer.h"
#include "testing/tensors.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

constexpr int kSteps = 5;

// The tensor's numbers on the host.
std::vector<float> numbers(const Ctx& ctx, Tensor t) {
  std::vector<char> bytes(t.size_bytes());
  copy_bytes(ctx, bytes.data(), Device::cpu, t.data(), t.device(), bytes.size());
  std::vector<float> out(static_cast<size_t>(t.numel()));
  for (size_t i = 0; i < out.size(); ++i) {
    if (t.dtype() == DType::bf16) {
      uint16_t x;
      std::memcpy(&x, &bytes[2 * i], 2);
      out[i] = std::bit_cast<float>(uint32_t{x} << 16);
    } else {
      std::memcpy(&out[i], &bytes[4 * i], 4);
    }
  }
  return out;
}

float rounded_to_bf16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double relative(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
    size += std::pow(static_cast<double>(want[i]), 2);
  }
  return std::sqrt(difference) / std::max(std::sqrt(size), 1e-30);
}

// A run on one device: tensors of every group, matrices that share shapes and some that do not, odd sizes, one tensor
// at an odd place, one of several chunks, some not averaged.
struct Training {
  Ctx ctx;
  Config config;
  ParamTable params;
  Param handles[24];
  std::unique_ptr<Averages> averages;
  std::unique_ptr<Optimizer> optimizer;
  std::vector<float> start;

  Training(Device device, DType dtype) : ctx(make_ctx(device, dtype, 2)) {
    config.swa_last_frac = 0.5;
    int used = 0;
    const Init init = Init::normal(0.1);
    const auto declare = [&](const char* name, Shape shape, Group group, Averaging averaging = Averaging::on,
                             bool after = false) {
      params.param(handles[used++], name, shape, init, group, Codec::other, averaging, after);
    };
    declare("gains", {7}, Group::scalar);
    declare("wide", {3, 5}, Group::matrix);
    declare("table", {130, 257}, Group::table);
    declare("tall", {8, 2}, Group::matrix);
    declare("square", {64, 64}, Group::matrix);
    declare("up1", {96, 48}, Group::matrix);
    declare("down1", {48, 96}, Group::matrix);
    declare("up2", {96, 48}, Group::matrix, Averaging::off);
    declare("down2", {48, 96}, Group::matrix);
    declare("up3", {96, 48}, Group::matrix);
    declare("odd", {5, 3}, Group::matrix);
    declare("behind", {7, 3}, Group::matrix, Averaging::on, true);  // starts at an odd element
    declare("filter", {6, 4, 5}, Group::matrix);
    declare("long", {300, 41}, Group::matrix);
    declare("row", {1, 9}, Group::matrix);
    declare("head", {4, 3}, Group::head);
    declare("scale", {}, Group::scalar);
    declare("latent", {6, 2}, Group::jepa, Averaging::off);
    declare("predictor", {5, 5}, Group::jepa);
    declare("decay_rates", {6, 3}, Group::scalar_no_decay);
    declare("fixed_rates", {9}, Group::scalar_no_decay, Averaging::off);
    params.allocate(ctx, 11);
    start = numbers(ctx, params.values());
    averages = std::make_unique<Averages>(config, ctx, params);
    optimizer = std::make_unique<Optimizer>(config, ctx, params, averages.get());
  }
  void draw_gradients(uint32_t step) {
    std::vector<float> host(static_cast<size_t>(params.arena_numel()));
    for (const ParamSpec& spec : params.specs()) {
      const Random random(5, spec.name, step);
      for (int64_t i = 0; i < spec.shape.numel(); ++i)
        host[static_cast<size_t>(spec.offset + i)] =
            static_cast<float>((step % 2 ? 1e-4 : 1) * random.normal(static_cast<uint64_t>(i)));  // clipped or not
    }
    write(params.grads(), 0, host);
  }
  void write(Tensor to, int64_t at, const std::vector<float>& from) {
    const Tensor part = to.slice(0, at, at + static_cast<int64_t>(from.size()));
    copy_bytes(ctx, part.data(), ctx.device, from.data(), Device::cpu, part.size_bytes());
  }
  double lr_factor(int step) const { return 1 - 0.1 * step; }
  void steps(int from, int to) {
    for (int n = from; n < to; ++n) {
      draw_gradients(static_cast<uint32_t>(n));
      norms.push_back(optimizer->gradient_norm());
      optimizer->step(n, norms.back(), lr_factor(n), 0.85 + 0.01 * n, *averages);
      if (optimizer->fused() != nullptr) fused_norms.push_back(optimizer->fused()->norm());
      averages->snapshot(params);
    }
  }
  // Everything that a step moves.
  std::vector<std::vector<float>> state() const {
    std::vector<std::vector<float>> out;
    for (const Tensor& t : {params.values(), optimizer->first_moments(), optimizer->second_moments(), averages->ema(),
                            averages->swa(), params.operands()})
      out.push_back(numbers(ctx, t));
    return out;
  }
  // What the steps have done to one tensor.
  std::vector<float> change(const ParamSpec& spec) const {
    const std::vector<float> now = numbers(ctx, params.values());
    std::vector<float> out;
    for (int64_t i = spec.offset; i < spec.offset + spec.shape.numel(); ++i)
      out.push_back(now[static_cast<size_t>(i)] - start[static_cast<size_t>(i)]);
    return out;
  }
  std::vector<double> norms, fused_norms;  // as the optimiser gives them, and as its fused step has them
};

const char* const kStateNames[] = {"values", "first moments", "second moments", "running average", "mean of snapshots"};

class FusedStepOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string why = gpu_info().unusable; !why.empty()) GTEST_SKIP() << "needs a GPU: " << why;
  }
};

TEST(FusedStep, IsNullOnTheCpu) {
  Training run(Device::cpu, DType::f32);
  EXPECT_EQ(run.optimizer->fused(), nullptr);
}

TEST_F(FusedStepOnGpu, Float32FollowsTheCpu) {
  Training cpu(Device::cpu, DType::f32), gpu(Device::cuda, DType::f32);
  for (int n = 0; n < kSteps; ++n) {
    cpu.steps(n, n + 1), gpu.steps(n, n + 1);
    EXPECT_NEAR(gpu.norms.back() / cpu.norms.back(), 1, tolerance::kReordered);
    EXPECT_NEAR(gpu.optimizer->fused()->norm() / cpu.norms.back(), 1, tolerance::kReordered);
    const auto want = cpu.state(), got = gpu.state();
    for (size_t i = 0; i < std::size(kStateNames); ++i)
      EXPECT_LE(relative(got[i], want[i]), tolerance::kStepFloat32) << kStateNames[i] << " after step " << n;
    for (const ParamSpec& spec : cpu.params.specs())
      EXPECT_LE(relative(gpu.change(spec), cpu.change(spec)), tolerance::kStepChangeFloat32)
          << spec.name << " after step " << n;
  }
}

TEST_F(FusedStepOnGpu, Bf16FollowsTheCpuAndKeepsItsOperandsEqualToTheValues) {
  Training cpu(Device::cpu, DType::f32), gpu(Device::cuda, DType::bf16);
  cpu.steps(0, kSteps), gpu.steps(0, kSteps);
  for (const ParamSpec& spec : cpu.params.specs())
    EXPECT_LE(relative(gpu.change(spec), cpu.change(spec)),
              spec.group == Group::matrix ? tolerance::kStepBf16 : tolerance::kStepChangeFloat32)
        << spec.name;
  const auto want = cpu.state(), got = gpu.state();
  EXPECT_LE(relative(got[1], want[1]), tolerance::kStepFloat32);
  EXPECT_LE(relative(got[2], want[2]), tolerance::kStepFloat32);
  std::vector<float> rounded;
  for (float x : got[0]) rounded.push_back(rounded_to_bf16(x));
  EXPECT_TRUE(same_bits(got[5], rounded)) << "operands differ from the values";
}

TEST_F(FusedStepOnGpu, TwoRunsHaveTheSameBits) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Training a(Device::cuda, dtype), b(Device::cuda, dtype);
    a.steps(0, kSteps), b.steps(0, kSteps);
    const auto first = a.state(), second = b.state();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(same_bits(first[i], second[i])) << name_of(dtype) << " " << i;
    EXPECT_EQ(a.norms, b.norms);
  }
}

TEST_F(FusedStepOnGpu, ARecordingDoesWhatTheLaunchesDo) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Training eager(Device::cuda, dtype), replayed(Device::cuda, dtype);
    eager.steps(0, kSteps);
    replayed.steps(0, 1);
    FusedStep& step = *replayed.optimizer->fused();
    const Recording recording(replayed.ctx, [&] { step.enqueue(Tensor()); });
    for (int n = 1; n < kSteps; ++n) {
      replayed.draw_gradients(static_cast<uint32_t>(n));
      step.prepare(n, replayed.lr_factor(n), 0.85 + 0.01 * n);
      recording.replay();
      EXPECT_EQ(step.norm(), eager.fused_norms[static_cast<size_t>(n)]);
      replayed.averages->snapshot(replayed.params);
    }
    const auto want = eager.state(), got = replayed.state();
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i])) << name_of(dtype) << " " << i;
  }
}

TEST_F(FusedStepOnGpu, WhatIsNotFiniteChangesNothing) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Training run(Device::cuda, dtype), untroubled(Device::cuda, dtype);
    run.steps(0, 2);
    const auto before = run.state();
    FusedStep& step = *run.optimizer->fused();
    const Buffer memory(3 * sizeof(double), Device::cuda);
    const Tensor losses(memory.data(), {3}, DType::f64, Device::cuda);
    const auto unchanged = [&](const char* what) {
      const auto after = run.state();
      for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(same_bits(before[i], after[i])) << what << " " << i;
    };
    for (float bad : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      for (const char* name : {"long", "scale"}) {
        run.draw_gradients(2);
        run.write(run.params.grads(), run.params.find(name)->offset, {bad});
        step.prepare(2, 1, 0.9);
        step.enqueue(Tensor());
        EXPECT_FALSE(std::isfinite(step.norm()));
        unchanged("gradient");
        try {
          run.optimizer->gradient_norm();
          ADD_FAILURE() << "not refused";
        } catch (const NumericsError& error) {
          EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
        }
      }
      const double values[3] = {1, 2, bad};
      copy_bytes(run.ctx, losses.data(), Device::cuda, values, Device::cpu, sizeof(values));
      run.draw_gradients(2);
      step.prepare(2, 1, 0.9);
      step.enqueue(losses);
      EXPECT_TRUE(std::isfinite(step.norm()));
      unchanged("loss");
    }
    // What comes after is as if nothing had happened.
    const double values[3] = {1, 2, 3};
    copy_bytes(run.ctx, losses.data(), Device::cuda, values, Device::cpu, sizeof(values));
    run.draw_gradients(2);
    step.prepare(2, run.lr_factor(2), 0.85 + 0.01 * 2);
    step.enqueue(losses);
    run.averages->snapshot(run.params);
    untroubled.steps(0, 3);
    const auto after = run.state(), want = untroubled.state();
    for (size_t i = 0; i < after.size(); ++i) EXPECT_TRUE(same_bits(after[i], want[i])) << i;
  }
}

TEST_F(FusedStepOnGpu, NewtonSchulzOfOneMatrixFollowsTheCpu) {
  for (const Shape shape : {Shape{3, 5}, Shape{64, 64}, Shape{130, 40}, Shape{40, 257}, Shape{1, 7}}) {
    const int64_t rows = shape[0], cols = shape[1], need = newton_schulz_scratch(rows, cols);
    const Owned g = Owned::normal(DType::f32, shape, "g"), want(DType::f32, shape), room(DType::f32, {need});
    newton_schulz(context(DType::f32), g, 5, room, want);
    for (DType dtype : {DType::f32, DType::bf16}) {
      const Ctx ctx = make_ctx(Device::cuda, dtype, 1);
      const Buffer in(static_cast<size_t>(g.numel()) * size_of(dtype), Device::cuda);
      const Buffer out(in.size_bytes(), Device::cuda),
          scratch(static_cast<size_t>(need) * size_of(dtype), Device::cuda);
      std::vector<char> bytes(in.size_bytes());
      for (int64_t i = 0; i < g.numel(); ++i) {
        const uint32_t u = std::bit_cast<uint32_t>(rounded_to_bf16(static_cast<float>(g.at(i))));
        const auto narrow = static_cast<uint16_t>(u >> 16);
        const float wide = static_cast<float>(g.at(i));
        if (dtype == DType::bf16)
          std::memcpy(&bytes[static_cast<size_t>(2 * i)], &narrow, 2);
        else
          std::memcpy(&bytes[static_cast<size_t>(4 * i)], &wide, 4);
      }
      copy_bytes(ctx, in.data(), Device::cuda, bytes.data(), Device::cpu, bytes.size());
      const Tensor result(out.data(), shape, dtype, Device::cuda);
      newton_schulz(ctx, Tensor(in.data(), shape, dtype, Device::cuda), 5,
                    Tensor(scratch.data(), {need}, dtype, Device::cuda), result);
      std::vector<float> expected;
      for (double x : want.values()) expected.push_back(static_cast<float>(x));
      EXPECT_LE(relative(numbers(ctx, result), expected),
                dtype == DType::bf16 ? tolerance::kStepBf16 : tolerance::kStepChangeFloat32)
          << shape.str() << " " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace bg
