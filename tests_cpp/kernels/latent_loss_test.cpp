#include "kernels/latent_loss.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

constexpr double kWeight = 0.25;  // on the device

OpCase mse(int64_t N, int64_t D) {
  OpCase c;
  c.name = words("mse", N, D);
  c.inputs = {{"a", {N, D}}};
  c.outputs = {{{}, Kept::f64}};
  c.forward = [=](OpRun& r) { mse_forward(r.ctx, r.in[0], r.constant({N, D}, "b"), r.out[0]); };
  c.backward = [=](OpRun& r) {
    mse_backward(r.ctx, r.in[0], r.constant({N, D}, "b"), r.scale(0) / kWeight, r.number(kWeight), r.din[0]);
  };
  c.formula = [=](const Lists& in) {
    const std::vector<double> b = Owned::normal(DType::f64, {N, D}, "b").values();
    double sum = 0;
    for (size_t i = 0; i < b.size(); ++i) sum += (in[0][i] - b[i]) * (in[0][i] - b[i]);
    return Lists{{sum / static_cast<double>(b.size())}};
  };
  return c;
}

// size: deviation of the columns; below 1e-6 the floor under std holds.
OpCase standardise(int64_t R, int64_t L, double size, Write write) {
  OpCase c;
  c.name = words("standardise", R, L, size, write == Write::add ? "add" : "set");
  c.inputs = {{"z", {R, L}, write, size, size}};
  c.outputs = {{{R, L}}};
  c.step = 1e-4 * size;
  c.forward = [=](OpRun& r) { standardise_forward(r.ctx, r.in[0], r.out[0], r.keep_full({L})); };
  c.backward = [=](OpRun& r) { standardise_backward(r.ctx, r.out[0], r.kept[0], r.dout[0], r.din[0], write); };
  c.formula = [=](const Lists& in) {
    std::vector<double> y(in[0]);
    for (int64_t j = 0; j < L; ++j) {
      double mean = 0, square = 0;
      for (int64_t r = 0; r < R; ++r) mean += in[0][r * L + j] / static_cast<double>(R);
      for (int64_t r = 0; r < R; ++r) square += std::pow(in[0][r * L + j] - mean, 2);
      const double std = std::max(std::sqrt(square / static_cast<double>(R - 1)), 1e-6);
      for (int64_t r = 0; r < R; ++r) y[r * L + j] = (in[0][r * L + j] - mean) / std;
    }
    return Lists{y};
  };
  return c;
}

OpCase sigreg(int64_t R, int64_t P) {
  OpCase c;
  c.name = words("sigreg", R, P);
  c.inputs = {{"p", {R, P}}};
  c.outputs = {{{}, Kept::f64}};
  c.forward = [=](OpRun& r) { sigreg_forward(r.ctx, r.in[0], r.keep({2, P, kSigregPoints}, DType::f64), r.out[0]); };
  c.backward = [](OpRun& r) {
    sigreg_backward(r.ctx, r.in[0], r.kept[0], r.scale(0) / kWeight, r.number(kWeight), r.din[0]);
  };
  c.formula = [=](const Lists& in) {
    double sum = 0;
    for (int64_t j = 0; j < P; ++j)
      for (int64_t k = 0; k < 17; ++k) {
        const double t = 0.2 + (3.0 - 0.2) * static_cast<double>(k) / 16;
        double cosine = 0, sine = 0;
        for (int64_t r = 0; r < R; ++r) {
          cosine += std::cos(t * in[0][r * P + j]) / static_cast<double>(R);
          sine += std::sin(t * in[0][r * P + j]) / static_cast<double>(R);
        }
        sum += std::pow(cosine - std::exp(-t * t / 2), 2) + sine * sine;
      }
    return Lists{{sum / static_cast<double>(17 * P)}};
  };
  return c;
}

std::vector<OpCase> small_standardise() {
  return {standardise(2, 1, 1, Write::set), standardise(5, 3, 1, Write::add), standardise(21, 17, 3, Write::set),
          standardise(4, 33, 1e-3, Write::add)};
}

BG_PROVE_OP(Mse, (std::vector<OpCase>{mse(1, 1), mse(3, 17)}), (std::vector<OpCase>{mse(128, 256)}))
BG_PROVE_OP(Standardise, small_standardise(), (std::vector<OpCase>{standardise(512, 256, 2, Write::set)}))
BG_PROVE_OP(Sigreg, (std::vector<OpCase>{sigreg(1, 1), sigreg(3, 17), sigreg(21, 5)}),
            (std::vector<OpCase>{sigreg(300, 256)}))

BG_PROVE_CUDA(Mse, (std::vector<OpCase>{mse(1000, 256), mse(77, 5), mse(1, 100)}))
BG_PROVE_CUDA(Standardise,
              (std::vector<OpCase>{standardise(1537, 256, 2, Write::add), standardise(1000, 100, 2, Write::set),
                                   standardise(40, 5, 2, Write::add), standardise(257, 33, 0.01, Write::set)}))
BG_PROVE_CUDA(Sigreg, (std::vector<OpCase>{sigreg(1537, 256), sigreg(1000, 100), sigreg(50, 5), sigreg(7, 33)}))

TEST(SumF64, IsTheSumOnCuda) {
  BG_NEEDS_GPU();
  const Ctx& gpu = cuda_context(DType::bf16);
  for (int64_t n : {1, 33, 1024, 49152}) {
    const Owned x = Owned::normal(DType::f64, {n}, "x", 1, 3), on_gpu = x.to(gpu);
    Owned want(DType::f64, {});
    want.fill(kPoison);
    const Owned out = want.to(gpu);
    sum_f64(gpu, on_gpu, out);
    sum_f64(context(DType::f64), x, want);
    EXPECT_NEAR(out.host(gpu).at(0), want.at(0), tolerance::kReordered * std::abs(want.at(0))) << n;
  }
}

// Columns narrower than the floor: y = (z - mean) / 1e-6, a linear map whose derivative has no part along y.
TEST(Standardise, BelowTheFloorOnlyTheMeanIsRemovedFromTheGradient) {
  const Ctx ctx = context(DType::f64);
  const int64_t R = 5, L = 3;
  Owned z = Owned::normal(DType::f64, {R, L}, "z", 1e-9), y(DType::f64, {R, L}), std(DType::f64, {L}),
        dy = Owned::normal(DType::f64, {R, L}, "dy"), dz(DType::f64, {R, L});
  standardise_forward(ctx, z, y, std);
  standardise_backward(ctx, y, std, dy, dz, Write::set);
  for (int64_t j = 0; j < L; ++j) {
    double mean_z = 0, mean_d = 0;
    for (int64_t r = 0; r < R; ++r) {
      mean_z += z.at(r * L + j) / 5;
      mean_d += dy.at(r * L + j) / 5;
    }
    for (int64_t r = 0; r < R; ++r) {
      EXPECT_NEAR(y.at(r * L + j), (z.at(r * L + j) - mean_z) * 1e6, 1e-12);
      EXPECT_NEAR(dz.at(r * L + j), (dy.at(r * L + j) - mean_d) * 1e6, 1e-6);
    }
  }
}

TEST(Sigreg, OfAStandardNormalIsNearZeroAndOfAConstantIsNot) {
  Owned p = Owned::normal(DType::f64, {20000, 2}, "p"), means(DType::f64, {2, 2, kSigregPoints}), out(DType::f64, {});
  sigreg_forward(context(DType::f64), p, means, out);
  EXPECT_LT(out.at(0), 2e-4);
  p.fill(1);
  sigreg_forward(context(DType::f64), p, means, out);
  EXPECT_GT(out.at(0), 0.1);
}

TEST(SumF64, AddsInOrder) {
  Owned x(DType::f64, {3}), out(DType::f64, {});
  x.set(0, 1);
  x.set(1, 1e100);
  x.set(2, -1e100);
  sum_f64(context(DType::f64), x, out);
  EXPECT_EQ(out.at(0), 0);  // 1 is lost beside 1e100, as in any sum from left to right
}

TEST(Standardise, RefusesASingleRow) {
  Owned z(DType::f64, {1, 3}), std(DType::f64, {3});
  EXPECT_THROW(standardise_forward(context(DType::f64), z, z, std), InvalidArgument);
}

}  // namespace
}  // namespace bg
