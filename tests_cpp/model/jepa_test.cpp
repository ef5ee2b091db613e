// The JEPA side path against its definition in plain loops, targets of the prediction held fixed.
#include "model/jepa.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "testing/gradcheck.h"
#include "testing/tiny_models.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

using Vec = std::vector<double>;
using Params = std::map<std::string, Vec>;

constexpr int64_t kB = 2, kT = 11, kChunk = 4, kC = 2, kD = 12, kF = 7, kL = 6, kP = kSigregDirections;
constexpr double kEps = 1e-6;

// silu(rms(W1 v)) through W2; W1 (h, n), W2 (m, h).
Vec two_layers(const Vec& w1, const Vec& w2, const Vec& v, int64_t h, int64_t m) {
  const int64_t n = static_cast<int64_t>(v.size());
  Vec a(h), out(m);
  double square = 0;
  for (int64_t i = 0; i < h; ++i) {
    for (int64_t j = 0; j < n; ++j) a[i] += w1[i * n + j] * v[j];
    square += a[i] * a[i] / static_cast<double>(h);
  }
  for (double& x : a) {
    x /= std::sqrt(square + kEps);
    x /= 1 + std::exp(-x);
  }
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < h; ++j) out[i] += w2[i * h + j] * a[j];
  return out;
}

struct Plain {
  std::vector<Vec> z, guess;  // per chunk, row of the batch by row
  Vec x;                      // after the injection
  double pred = 0, sigreg = 0;
};

// `fixed`: the latents that count as constants in the prediction loss; its own when empty.
Plain plain(const Params& p, const Vec& x, const Vec& directions, const std::vector<Vec>& fixed) {
  Plain out;
  out.x = x;
  for (int64_t b = 0; b < kB; ++b)
    for (int64_t c = 0; c < kC; ++c) {
      Vec m(kD);
      for (int64_t t = c * kChunk; t < (c + 1) * kChunk; ++t)
        for (int64_t i = 0; i < kD; ++i) m[i] += x[(b * kT + t) * kD + i] / static_cast<double>(kChunk);
      out.z.push_back(two_layers(p.at("jepa_projector.fc1.weight"), p.at("jepa_projector.fc2.weight"), m, kF, kL));
      const Vec before = c == 0 ? p.at("jepa_predictor.start_token") : out.z[out.z.size() - 2];
      out.guess.push_back(
          two_layers(p.at("jepa_predictor.fc1.weight"), p.at("jepa_predictor.fc2.weight"), before, kL, kL));
      const Vec& inject = p.at("jepa_injection.weight");
      for (int64_t t = c * kChunk; t < (c + 1) * kChunk; ++t)
        for (int64_t i = 0; i < kD; ++i)
          for (int64_t j = 0; j < kL; ++j) out.x[(b * kT + t) * kD + i] += inject[i * kL + j] * out.guess.back()[j];
    }
  const std::vector<Vec>& targets = fixed.empty() ? out.z : fixed;
  const int64_t R = kB * kC;
  for (int64_t r = 0; r < R; ++r)
    for (int64_t j = 0; j < kL; ++j)
      out.pred += std::pow(out.guess[r][j] - targets[r][j], 2) / static_cast<double>(R * kL);
  std::vector<Vec> standard = out.z;
  for (int64_t j = 0; j < kL; ++j) {
    double mean = 0, square = 0;
    for (int64_t r = 0; r < R; ++r) mean += out.z[r][j] / static_cast<double>(R);
    for (int64_t r = 0; r < R; ++r) square += std::pow(out.z[r][j] - mean, 2) / static_cast<double>(R - 1);
    for (int64_t r = 0; r < R; ++r) standard[r][j] = (out.z[r][j] - mean) / std::sqrt(square);
  }
  for (int64_t k = 0; k < kP; ++k)
    for (int64_t point = 0; point < 17; ++point) {
      const double t = 0.2 + 0.175 * static_cast<double>(point);
      double cosine = 0, sine = 0;
      for (int64_t r = 0; r < R; ++r) {
        double along = 0;
        for (int64_t j = 0; j < kL; ++j) along += standard[r][j] * directions[j * kP + k];
        cosine += std::cos(t * along) / static_cast<double>(R);
        sine += std::sin(t * along) / static_cast<double>(R);
      }
      out.sigreg += (std::pow(cosine - std::exp(-t * t / 2), 2) + sine * sine) / static_cast<double>(kP * 17);
    }
  return out;
}

TEST(Jepa, EqualsItsDefinitionForwardAndBackward) {
  const Config config = tiny_config("byte260-jepa", "jepa_sigreg_weight = 0.5");
  const Ctx ctx = context(DType::f64);
  ParamTable table;
  Jepa jepa(config);
  jepa.declare(table);
  table.allocate(ctx, 3);
  Params params;
  for (const ParamSpec& s : table.specs()) {
    Owned values = Owned::normal(DType::f64, s.shape, s.name, 0.6);
    std::memcpy(s.handle->value.data(), values.view().data(), values.view().size_bytes());
    params[s.name] = values.values();
  }
  Plan plan(ctx, Purpose::train);
  jepa.reserve(plan, kB, kT);
  plan.commit();
  const Vec directions = Owned::normal(DType::f64, {kL, kP}, "directions", 0.4).values();
  jepa.set_directions(ctx, directions);

  Owned x = Owned::normal(DType::f64, {kB, kT, kD}, "x"), dx = Owned::normal(DType::f64, {kB, kT, kD}, "dx"),
        pred(DType::f64, {}), sigreg(DType::f64, {});
  const Vec start = x.values(), gradient_before = dx.values();
  jepa.forward(ctx, x, true, pred, sigreg);
  const double weight = 0.3;
  double given = weight;
  jepa.backward(ctx, dx, true, 1, Tensor(&given, {}, DType::f64, Device::cpu));

  const Plain expected = plain(params, start, directions, {});
  EXPECT_NEAR(pred.at(0), expected.pred, 1e-12);
  EXPECT_NEAR(sigreg.at(0), expected.sigreg, 1e-12);
  for (int64_t i = 0; i < x.numel(); ++i) ASSERT_NEAR(x.at(i), expected.x[i], 1e-12);
  EXPECT_EQ(dx.values(), gradient_before) << "the stream's own gradient passes by";

  for (const ParamSpec& s : table.specs())
    for (int64_t i : some_of(s.shape.numel(), 12)) {
      double& value = params[s.name][i];
      const double at = value, derivative = difference(at, 1e-4, [&](double shifted) {
                                 value = shifted;
                                 const Plain p = plain(params, start, directions, expected.z);
                                 double loss = 0;
                                 if (s.name == "jepa_injection.weight") {
                                   for (int64_t n = 0; n < dx.numel(); ++n) loss += dx.at(n) * p.x[n];
                                 } else {
                                   loss = weight * (p.pred + config.jepa_sigreg_weight * p.sigreg);
                                 }
                                 return loss;
                               });
      value = at;
      ASSERT_NEAR(s.handle->grad.ptr<double>()[i], derivative, tolerance::kOpDifference) << s.name << "[" << i << "]";
    }
}

}  // namespace
}  // namespace bg
