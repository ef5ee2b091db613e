#include "kernels/activation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

double plain(const std::string& name, double slope, double x) {
  if (name == "gelu") return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
  if (name == "silu") return x / (1 + std::exp(-x));
  const double f = x > 0 ? x : (name == "relu2" ? 0 : slope) * x;
  return f * f;
}

OpCase activation(const std::string& name, double slope, Shape shape, bool again) {
  const Activation f = Activation::parse(name, slope);
  OpCase c;
  c.name = words(name, slope, shape.str(), again ? "again" : "");
  c.inputs = {{"x", shape, Write::set, 2}};
  c.outputs = {{shape}};
  c.forward = [=](OpRun& r) { activation_forward(r.ctx, f, r.in[0], r.out[0]); };
  c.backward = [=](OpRun& r) {
    if (!again) return activation_backward(r.ctx, f, r.in[0], r.dout[0], r.din[0], {});
    // The forward value once more, over the gradient it came with: still that value.
    const Tensor dy = r.keep(shape);
    copy_tensor(r.ctx, r.dout[0], dy);
    activation_backward(r.ctx, f, r.in[0], dy, r.din[0], dy);
    copy_tensor(r.ctx, dy, r.out[0]);
  };
  c.formula = [=](const Lists& in) {
    std::vector<double> y;
    for (double x : in[0]) y.push_back(plain(name, slope, x));
    return Lists{y};
  };
  return c;
}

std::vector<OpCase> cases(std::initializer_list<Shape> shapes) {
  std::vector<OpCase> out;
  for (const Shape& s : shapes)
    for (const char* name : {"leaky_relu2", "relu2", "gelu", "silu"})
      for (bool again : {false, true}) out.push_back(activation(name, 0.5, s, again));
  return out;
}

BG_PROVE_OP(Activation, cases({{1}, {3, 17}, {2, 3, 5}}), cases({{65, 1024}}))
BG_PROVE_CUDA(Activation, cases({{251, 1024}, {777, 5}, {1, 100}}))

TEST(Activation, WorksInPlace) {
  const Ctx ctx = context(DType::f32);
  for (const char* name : {"leaky_relu2", "relu2", "gelu", "silu"}) {
    const Activation f = Activation::parse(name, 0.5);
    Owned x = Owned::normal(DType::f32, {100}, "x"), y(DType::f32, {100}), dx = Owned::normal(DType::f32, {100}, "d"),
          apart(DType::f32, {100});
    activation_backward(ctx, f, x, dx, apart, {});
    activation_backward(ctx, f, x, dx, dx, {});
    EXPECT_EQ(dx.bits(), apart.bits()) << name;
    activation_forward(ctx, f, x, y);
    activation_forward(ctx, f, x, x);
    EXPECT_EQ(x.bits(), y.bits()) << name;
  }
}

TEST(Activation, AtZeroTheSquaredOnesAreFlat) {
  for (const char* name : {"leaky_relu2", "relu2"}) {
    Owned x(DType::f64, {1}), dx(DType::f64, {1}), dy(DType::f64, {1});
    x.fill(0);
    dy.fill(1);
    activation_backward(context(DType::f64), Activation::parse(name, 0.5), x, dy, dx, {});
    EXPECT_EQ(dx.at(0), 0) << name;
  }
}

// silu(x) / x is a sigmoid, hence the float32 exponential over its whole range.
TEST(Activation, SiluInFloat32IsAccurateOverTheWholeRange) {
  std::vector<float> points;
  for (float x = -100; x < 100; x += 0.0137f) points.push_back(x);
  for (float x : {1e-30f, 1e-7f, -1e-7f, 1e-3f, -87.0f, -88.0f, 1e4f, 1e30f, -1e4f, -1e30f}) points.push_back(x);
  const int64_t n = static_cast<int64_t>(points.size());
  Owned x(DType::f32, {n}), y(DType::f32, {n}), dx(DType::f32, {n}), one(DType::f32, {n});
  one.fill(1);
  for (int64_t i = 0; i < n; ++i) x.set(i, points[i]);
  const Activation f = Activation::parse("silu", 0);
  activation_forward(context(DType::f32), f, x, y);
  activation_backward(context(DType::f32), f, x, one, dx, {});
  for (int64_t i = 0; i < n; ++i) {
    const double at = x.at(i), s = at < -700 ? 0 : 1 / (1 + std::exp(-at));
    // The exponential ends at e^88.3: of the sigmoid 4.6e-39 is left where its true value is smaller.
    const double left = 5e-39 * (1 + std::abs(at)) + 1e-36;
    ASSERT_NEAR(y.at(i), at * s, 1.2 * tolerance::kElementaryFloat32 * std::abs(at * s) + left) << "x = " << at;
    ASSERT_NEAR(dx.at(i), s * (1 + at * (1 - s)), 4 * tolerance::kElementaryFloat32 * (1 + std::abs(at)) * s + left)
        << "x = " << at;
  }
}

TEST(Activation, RefusesAnUnknownName) {
  EXPECT_THROW(Activation::parse("swish", 0), InvalidArgument);
}

}  // namespace
}  // namespace bg
