#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"

namespace bg {
namespace {

struct Case {
  int64_t B, T, H, G, d, window;
  bool documents;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.B << " T" << c.T << " H" << c.H << " G" << c.G << " d" << c.d << " window " << c.window
             << (c.documents ? " documents" : "");
}

Ctx context(DType dtype, int threads) {
  Ctx ctx;
  ctx.dtype = dtype;
  ctx.pool = std::make_shared<ThreadPool>(threads);
  return ctx;
}

// All operands of one call. q, k, v are slices of packed rows, as the model stores them; dq, dk, dv likewise.
template <class T>
struct Operands {
  Case c;
  std::vector<T> qkv, y, lse, dy, dqkv, scratch;
  std::vector<int32_t> starts;

  explicit Operands(const Case& c_) : c(c_) {
    const size_t rows = static_cast<size_t>(c.B * c.T);
    qkv.resize(rows * static_cast<size_t>(width()));
    dqkv.assign(qkv.size(), std::numeric_limits<T>::quiet_NaN());
    y.assign(rows * static_cast<size_t>(c.H * c.d), std::numeric_limits<T>::quiet_NaN());
    dy.resize(y.size());
    lse.resize(rows * static_cast<size_t>(c.H));
    fill(qkv, "qkv");
    fill(dy, "dy");
    scratch.assign(
        static_cast<size_t>(attention_scratch_bytes(Device::cpu, DTypeOf<T>::value, c.B, c.T, c.H, c.d)) / sizeof(T),
        std::numeric_limits<T>::quiet_NaN());
    if (!c.documents) return;
    starts.resize(rows);
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t t = 0, start = 0; t < c.T; ++t) {
        if ((t * 7 + b * 3) % 23 == 0) start = t;
        starts[static_cast<size_t>(b * c.T + t)] = static_cast<int32_t>(start);
      }
  }
  static void fill(std::vector<T>& x, const char* name) {
    const Random random(5, name, 0);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<T>(random.normal(i));
  }
  int64_t width() const { return (c.H + 2 * c.G) * c.d + 1; }  // one element of padding, so that rows are not aligned
  Tensor heads(std::vector<T>& x, int64_t first, int64_t n) {
    return Tensor(x.data(), {c.B, c.T, width()}, DTypeOf<T>::value, Device::cpu)
        .slice(2, first * c.d, (first + n) * c.d)
        .split_last(c.d);
  }
  Tensor q() { return heads(qkv, 0, c.H); }
  Tensor k() { return heads(qkv, c.H, c.G); }
  Tensor v() { return heads(qkv, c.H + c.G, c.G); }
  Tensor dq() { return heads(dqkv, 0, c.H); }
  Tensor dk() { return heads(dqkv, c.H, c.G); }
  Tensor dv() { return heads(dqkv, c.H + c.G, c.G); }
  Tensor plain(std::vector<T>& x) { return Tensor(x.data(), {c.B, c.T, c.H, c.d}, DTypeOf<T>::value, Device::cpu); }
  Tensor log_sums() { return Tensor(lse.data(), {c.B, c.H, c.T}, DTypeOf<T>::value, Device::cpu); }
  Tensor doc_start() { return c.documents ? Tensor(starts.data(), {c.B, c.T}, DType::i32, Device::cpu) : Tensor(); }
  Tensor space() {
    return Tensor(scratch.data(), {static_cast<int64_t>(scratch.size() * sizeof(T))}, DType::u8, Device::cpu);
  }

  void forward(const Ctx& ctx) { attention_forward(ctx, q(), k(), v(), c.window, doc_start(), plain(y), log_sums()); }
  void backward(const Ctx& ctx) {
    attention_backward(ctx, q(), k(), v(), c.window, doc_start(), plain(y), log_sums(), plain(dy), dq(), dk(), dv(),
                       space());
  }
};

// The definition, written once more in the most direct way: a matrix of weights per head.
struct Expected {
  std::vector<double> y, lse;
  explicit Expected(Operands<double>& o) {
    const Case& c = o.c;
    y.assign(o.y.size(), 0);
    lse.assign(o.lse.size(), 0);
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t h = 0; h < c.H; ++h)
        for (int64_t t = 0; t < c.T; ++t) {
          std::vector<double> e(static_cast<size_t>(t + 1), 0);
          double sum = 0;
          const auto row = [&](int64_t s, int64_t head) {
            return &o.qkv[static_cast<size_t>((b * c.T + s) * o.width() + head * c.d)];
          };
          for (int64_t s = 0; s <= t; ++s) {
            if (c.window && s <= t - c.window) continue;
            if (c.documents && s < o.starts[static_cast<size_t>(b * c.T + t)]) continue;
            double score = 0;
            for (int64_t j = 0; j < c.d; ++j) score += row(t, h)[j] * row(s, c.H + h / (c.H / c.G))[j];
            e[static_cast<size_t>(s)] = std::exp(score / std::sqrt(static_cast<double>(c.d)));
            sum += e[static_cast<size_t>(s)];
          }
          lse[static_cast<size_t>((b * c.H + h) * c.T + t)] = std::log(sum);
          for (int64_t s = 0; s <= t; ++s)
            for (int64_t j = 0; j < c.d; ++j)
              y[static_cast<size_t>(((b * c.T + t) * c.H + h) * c.d + j)] +=
                  e[static_cast<size_t>(s)] / sum * row(s, c.H + c.G + h / (c.H / c.G))[j];
        }
  }
};

double relative(const std::vector<double>& want, const std::vector<double>& got) {
  double top = 0, bottom = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    top += (want[i] - got[i]) * (want[i] - got[i]);
    bottom += want[i] * want[i];
  }
  return std::sqrt(top / std::max(bottom, 1e-300));
}
std::vector<double> as_double(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

// The elements of dq, dk and dv without the padding.
template <class T>
std::vector<double> gradients(Operands<T>& o) {
  std::vector<double> out;
  const int64_t w = o.width();
  for (int64_t i = 0; i < o.c.B * o.c.T; ++i)
    for (int64_t j = 0; j + 1 < w; ++j) out.push_back(static_cast<double>(o.dqkv[static_cast<size_t>(i * w + j)]));
  return out;
}

const Case kCases[] = {
    {1, 1, 1, 1, 3, 0, false},    {2, 1, 2, 1, 64, 0, true},     {1, 7, 2, 2, 5, 0, false},
    {2, 33, 4, 2, 20, 0, false},  {1, 97, 6, 2, 3, 0, true},     {1, 130, 2, 1, 64, 0, false},
    {2, 131, 4, 4, 16, 1, false}, {1, 200, 2, 1, 20, 33, false}, {1, 257, 4, 2, 12, 97, true},
    {1, 300, 1, 1, 40, 0, true},  {1, 1100, 2, 1, 8, 0, false},  {1, 2100, 1, 1, 4, 130, true},
};

class Attention : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Attention, testing::ValuesIn(kCases));

TEST_P(Attention, EqualsTheDefinition) {
  Operands<double> o(GetParam());
  o.forward(context(DType::f64, 2));
  Expected want(o);
  EXPECT_LT(relative(want.y, o.y), 1e-13);
  for (size_t i = 0; i < want.lse.size(); ++i) ASSERT_NEAR(want.lse[i], o.lse[i], 1e-12);

  Operands<float> fast(GetParam());
  fast.forward(context(DType::f32, 2));
  EXPECT_LT(relative(want.y, as_double(fast.y)), 1e-6);
  for (size_t i = 0; i < want.lse.size(); ++i) ASSERT_NEAR(want.lse[i], static_cast<double>(fast.lse[i]), 3e-6);
}

TEST_P(Attention, FastGradientsEqualThoseOfTheDefinition) {
  Operands<double> o(GetParam());
  const Ctx ctx = context(DType::f64, 2);
  o.forward(ctx);
  o.backward(ctx);
  Operands<float> fast(GetParam());
  const Ctx fast_ctx = context(DType::f32, 2);
  fast.forward(fast_ctx);
  fast.backward(fast_ctx);
  EXPECT_LT(relative(gradients(o), gradients(fast)), 2e-6);
}

TEST_P(Attention, HasTheSameBitsAtAnyThreadCountAndWhenRepeated) {
  Operands<float> a(GetParam());
  const Ctx one = context(DType::f32, 1), three = context(DType::f32, 3);
  a.forward(one);
  a.backward(one);
  for (int repeat = 0; repeat < 2; ++repeat) {
    Operands<float> b(GetParam());
    b.forward(three);
    b.backward(three);
    EXPECT_EQ(std::memcmp(a.y.data(), b.y.data(), a.y.size() * sizeof(float)), 0);
    EXPECT_EQ(gradients(a), gradients(b));
  }
}

TEST_P(Attention, ChangingAPositionLeavesEarlierOnesBitEqual) {
  const Case& c = GetParam();
  const Ctx ctx = context(DType::f32, 2);
  Operands<float> before(c);
  before.forward(ctx);
  for (int64_t t : {c.T - 1, c.T / 2, c.T / 3}) {
    if (t == 0) continue;
    Operands<float> after(c);
    for (int64_t j = 0; j < after.width(); ++j) after.qkv[static_cast<size_t>(t * after.width() + j)] += 3;
    after.forward(ctx);
    EXPECT_EQ(std::memcmp(before.y.data(), after.y.data(), static_cast<size_t>(t * c.H * c.d) * sizeof(float)), 0) << t;
    EXPECT_NE(std::memcmp(before.y.data(), after.y.data(), before.y.size() * sizeof(float)), 0);
  }
}

TEST_P(Attention, APrefixAloneGivesTheSameBits) {
  const Case& c = GetParam();
  if (c.documents || c.B > 1 || c.T < 3) return;
  const Ctx ctx = context(DType::f32, 2);
  Operands<float> whole(c);
  whole.forward(ctx);
  Case shorter = c;
  shorter.T = c.T * 2 / 3;
  Operands<float> part(shorter);
  std::copy_n(whole.qkv.begin(), part.qkv.size(), part.qkv.begin());
  part.forward(ctx);
  EXPECT_EQ(std::memcmp(whole.y.data(), part.y.data(), part.y.size() * sizeof(float)), 0);
}

TEST(AttentionGradients, AgreeWithFiniteDifferences) {
  for (const Case& c : {Case{1, 6, 2, 1, 3, 0, false}, Case{2, 9, 4, 2, 5, 3, false}, Case{1, 26, 2, 2, 2, 7, true}}) {
    const Ctx ctx = context(DType::f64, 1);
    Operands<double> o(c);
    o.forward(ctx);
    o.backward(ctx);
    const auto objective = [&] {
      o.forward(ctx);
      double sum = 0;
      for (size_t i = 0; i < o.y.size(); ++i) sum += o.y[i] * o.dy[i];
      return sum;
    };
    for (int64_t i = 0; i < static_cast<int64_t>(o.qkv.size()); i += 5) {
      if (i % o.width() == o.width() - 1) continue;
      const size_t at = static_cast<size_t>(i);
      const double x = o.qkv[at], h = 1e-5;
      o.qkv[at] = x + h;
      const double up = objective();
      o.qkv[at] = x - h;
      const double down = objective();
      o.qkv[at] = x;
      ASSERT_NEAR((up - down) / (2 * h), o.dqkv[at], 1e-8 * std::max(1.0, std::abs(o.dqkv[at])))
          << c << " element " << i;
    }
  }
}

TEST(AttentionValues, LargeScoresNeitherOverflowNorVanish) {
  Operands<float> o({1, 40, 1, 1, 4, 0, false});
  for (float& x : o.qkv) x *= 1000;
  o.forward(context(DType::f32, 1));
  for (float x : o.y) ASSERT_TRUE(std::isfinite(x));
  for (float x : o.lse) ASSERT_TRUE(std::isfinite(x));
}

TEST(AttentionValues, NotANumberIsNotHidden) {
  Operands<float> o({1, 40, 1, 1, 4, 0, false});
  o.qkv[static_cast<size_t>(20 * o.width())] = std::numeric_limits<float>::quiet_NaN();
  o.forward(context(DType::f32, 1));
  EXPECT_TRUE(std::isnan(o.y[20 * 4]));
}

TEST(AttentionErrors, NameTheOperand) {
  const Ctx ctx = context(DType::f32, 1);
  Operands<float> o({1, 4, 2, 1, 4, 0, true});
  o.starts[2] = 3;
  try {
    o.forward(ctx);
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("doc_start of position 2 in row 0 is 3"), std::string::npos)
        << error.what();
  }
  o.starts = {0, 1, 0, 3};
  try {
    o.forward(ctx);
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find("doc_start decreases to 0 at position 2 in row 0"), std::string::npos)
        << error.what();
  }
  Operands<float> p({1, 4, 2, 1, 4, 0, false});
  EXPECT_THROW(attention_forward(ctx, p.q(), p.k(), p.v(), -1, Tensor(), p.plain(p.y), p.log_sums()), InvalidArgument);
  EXPECT_THROW(attention_forward(ctx, p.q(), p.k(), p.q(), 0, Tensor(), p.plain(p.y), p.log_sums()), InvalidArgument);
  const auto elsewhere = [](Tensor t) { return Tensor(t.data(), t.shape(), t.dtype(), Device::cuda); };
  EXPECT_THROW(attention_forward(ctx, p.q(), p.k(), p.v(), 0, Tensor(), p.plain(p.y), elsewhere(p.log_sums())),
               InvalidArgument);
  EXPECT_THROW(attention_forward(ctx, p.q(), p.k(), p.v(), 0, Tensor(), elsewhere(p.plain(p.y)), p.log_sums()),
               InvalidArgument);
  p.forward(ctx);
  EXPECT_THROW(attention_backward(ctx, p.q(), p.k(), p.v(), 0, Tensor(), p.plain(p.y), p.log_sums(), p.plain(p.dy),
                                  p.dq(), p.dk(), p.dv(), elsewhere(p.space())),
               InvalidArgument);
}

}  // namespace
}  // namespace bg
