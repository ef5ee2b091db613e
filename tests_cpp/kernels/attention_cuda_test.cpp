// Attention on the GPU against the CPU's in float64, on inputs rounded alike. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/memory.h"
#include "base/random.h"
#include "kernels/attention.h"
#include "tensor/buffer.h"
#include "testing/tensors.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

float rounded(float x, DType dtype) {
  if (dtype == DType::f32) return x;
  const uint32_t u = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((u + 0x7fffu + (u >> 16 & 1)) >> 16 << 16);  // no NaN here
}

// Memory on the GPU and the host's idea of it: numbers as float64, of dtype there.
struct Twin {
  Ctx ctx;
  DType dtype;
  std::vector<double> host;
  Buffer memory;

  Twin(const Ctx& ctx, DType dtype, int64_t n) : ctx(ctx), dtype(dtype), host(static_cast<size_t>(n)) {
    memory = Buffer(std::max<size_t>(host.size(), 1) * size_of(dtype), Device::cuda);
  }
  void fill_normal(const char* name) {
    const Random random(3, name);
    for (size_t i = 0; i < host.size(); ++i)
      host[i] = static_cast<double>(rounded(static_cast<float>(random.normal(i)), dtype));
  }
  void upload() {
    std::vector<char> bytes(host.size() * size_of(dtype));
    for (size_t i = 0; i < host.size(); ++i) {
      const uint32_t u = std::bit_cast<uint32_t>(static_cast<float>(host[i]));
      const uint16_t high = static_cast<uint16_t>(u >> 16);
      if (dtype == DType::bf16)
        std::memcpy(&bytes[2 * i], &high, 2);
      else
        std::memcpy(&bytes[4 * i], &u, 4);
    }
    copy_bytes(ctx, memory.data(), Device::cuda, bytes.data(), Device::cpu, bytes.size());
  }
  /// Every bit set: NaN in both dtypes.
  void poison() {
    const std::vector<char> bytes(host.size() * size_of(dtype), static_cast<char>(0xff));
    copy_bytes(ctx, memory.data(), Device::cuda, bytes.data(), Device::cpu, bytes.size());
  }
  std::vector<char> bits() const {
    std::vector<char> bytes(host.size() * size_of(dtype));
    copy_bytes(ctx, bytes.data(), Device::cpu, memory.data(), Device::cuda, bytes.size());
    return bytes;
  }
  std::vector<double> download() const {
    const std::vector<char> bytes = bits();
    std::vector<double> out(host.size());
    for (size_t i = 0; i < out.size(); ++i) {
      uint32_t u = 0;
      if (dtype == DType::bf16) {
        uint16_t high;
        std::memcpy(&high, &bytes[2 * i], 2);
        u = uint32_t{high} << 16;
      } else {
        std::memcpy(&u, &bytes[4 * i], 4);
      }
      out[i] = static_cast<double>(std::bit_cast<float>(u));
    }
    return out;
  }
  Tensor there(Shape shape) const { return Tensor(memory.data(), shape, dtype, Device::cuda); }
  Tensor here(Shape shape) { return Tensor(host.data(), shape, DType::f64, Device::cpu); }
};

struct Case {
  int64_t B, T, H, G, d, window;
  bool documents;
  int64_t gap;  // unused elements after each row of q, k and v, and of y: 1 is not aligned for the copy engine
  double gain;  // 0: none; else queries and keys are normed, and heads have gains of about this
  DType dtype;
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name_of(c.dtype) << " B" << c.B << " T" << c.T << " H" << c.H << " G" << c.G << " d" << c.d
             << " window " << c.window << (c.documents ? " documents" : "") << " gap " << c.gap << " gain " << c.gain;
}

// All operands of one call on the GPU, with room for the same call on the CPU.
struct Operands {
  Case c;
  Twin qkv, y, lse, dy, dqkv, gain;
  std::vector<int32_t> starts;
  Buffer starts_there, scratch, host_scratch;

  Operands(const Ctx& ctx, const Case& c)
      : c(c),
        qkv(ctx, c.dtype, c.B * c.T * width()),
        y(ctx, c.dtype, c.B * c.T * y_width()),
        lse(ctx, DType::f32, c.B * c.H * c.T),
        dy(ctx, c.dtype, c.B * c.T * y_width()),
        dqkv(ctx, c.dtype, c.B * c.T * width()),
        gain(ctx, DType::f32, c.H) {
    qkv.fill_normal("qkv");
    dy.fill_normal("dy");
    for (int64_t h = 0; h < c.H; ++h)
      gain.host[static_cast<size_t>(h)] =
          static_cast<double>(static_cast<float>((h % 2 ? -1 : 1) * c.gain * (1 - 0.05 * static_cast<double>(h))));
    if (c.gain != 0) norm();
    qkv.upload();
    dy.upload();
    gain.upload();
    if (c.documents) {
      const int64_t every = c.T < 300 ? 23 : 211;
      for (int64_t b = 0; b < c.B; ++b)
        for (int64_t t = 0, start = 0; t < c.T; ++t) {
          if ((t * 7 + b * 3) % every == 0) start = t;
          starts.push_back(static_cast<int32_t>(start));
        }
      starts_there = Buffer(starts.size() * 4, Device::cuda);
      copy_bytes(ctx, starts_there.data(), Device::cuda, starts.data(), Device::cpu, starts.size() * 4);
    }
    scratch = Buffer(
        std::max<size_t>(16, static_cast<size_t>(attention_scratch_bytes(Device::cuda, c.dtype, c.B, c.T, c.H, c.d))),
        Device::cuda);
    poison();
  }
  void norm() {
    for (int64_t row = 0; row < c.B * c.T; ++row)
      for (int64_t h = 0; h < c.H + c.G; ++h) {
        double* x = &qkv.host[static_cast<size_t>(row * width() + h * c.d)];
        double squares = 0;
        for (int64_t j = 0; j < c.d; ++j) squares += x[j] * x[j];
        const double g = h < c.H ? gain.host[static_cast<size_t>(h)] : 1;
        for (int64_t j = 0; j < c.d; ++j)
          x[j] = static_cast<double>(
              rounded(static_cast<float>(x[j] * g * std::sqrt(static_cast<double>(c.d) / squares)), c.dtype));
      }
  }
  void poison() {
    for (Twin* t : {&y, &lse, &dqkv}) t->poison();
    const std::vector<char> bytes(scratch.size_bytes(), static_cast<char>(0xff));
    copy_bytes(y.ctx, scratch.data(), Device::cuda, bytes.data(), Device::cpu, bytes.size());
  }
  int64_t width() const { return (c.H + 2 * c.G) * c.d + c.gap; }
  int64_t y_width() const { return c.H * c.d + c.gap; }
  Tensor heads(const Tensor& rows, int64_t first, int64_t n) const {
    return rows.slice(2, first * c.d, (first + n) * c.d).split_last(c.d);
  }

  void call(const Ctx& ctx, const Tensor& x, const Tensor& yy, const Tensor& l, const Tensor& dyy, const Tensor& dx,
            const Tensor& g, const Tensor& start, const Tensor& space, bool backward) const {
    const Tensor q = heads(x, 0, c.H), k = heads(x, c.H, c.G), v = heads(x, c.H + c.G, c.G);
    attention_forward(ctx, q, k, v, c.window, start, heads(yy, 0, c.H), l, g);
    if (!backward) return;
    attention_backward(ctx, q, k, v, c.window, start, heads(yy, 0, c.H), l, heads(dyy, 0, c.H), heads(dx, 0, c.H),
                       heads(dx, c.H, c.G), heads(dx, c.H + c.G, c.G), space);
  }
  void run(bool backward = true) const {
    const Shape wide{c.B, c.T, width()}, narrow{c.B, c.T, y_width()};
    call(y.ctx, qkv.there(wide), y.there(narrow), lse.there({c.B, c.H, c.T}), dy.there(narrow), dqkv.there(wide),
         c.gain != 0 ? gain.there({c.H}) : Tensor(),
         c.documents ? Tensor(starts_there.data(), {c.B, c.T}, DType::i32, Device::cuda) : Tensor(),
         Tensor(scratch.data(), {static_cast<int64_t>(scratch.size_bytes())}, DType::u8, Device::cuda), backward);
  }
  void run_on_cpu() {
    const Shape wide{c.B, c.T, width()}, narrow{c.B, c.T, y_width()};
    host_scratch = Buffer(static_cast<size_t>(attention_scratch_bytes(Device::cpu, DType::f64, c.B, c.T, c.H, c.d)));
    call(context(DType::f64, 4), qkv.here(wide), y.here(narrow), lse.here({c.B, c.H, c.T}), dy.here(narrow),
         dqkv.here(wide), c.gain != 0 ? gain.here({c.H}) : Tensor(),
         c.documents ? Tensor(starts.data(), {c.B, c.T}, DType::i32, Device::cpu) : Tensor(),
         Tensor(host_scratch.data(), {static_cast<int64_t>(host_scratch.size_bytes())}, DType::u8, Device::cpu), true);
  }
};

// Columns lo..hi-1 of rows of `width`.
std::vector<double> columns(const std::vector<double>& x, int64_t width, int64_t lo, int64_t hi) {
  std::vector<double> out;
  for (int64_t row = 0; (row + 1) * width <= static_cast<int64_t>(x.size()); ++row)
    out.insert(out.end(), x.begin() + row * width + lo, x.begin() + row * width + hi);
  return out;
}
double relative(const std::vector<double>& want, const std::vector<double>& got) {
  double top = 0, bottom = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    top += (want[i] - got[i]) * (want[i] - got[i]);
    bottom += want[i] * want[i];
  }
  return bottom == 0 ? std::sqrt(top) : std::sqrt(top / bottom);
}
double furthest(const std::vector<double>& want, const std::vector<double>& got) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double gap = std::abs(want[i] - got[i]);
    if (!(gap <= worst)) worst = gap;  // NaN stays
  }
  return worst;
}

const Ctx& gpu(DType dtype) {
  static const Ctx wide = make_ctx(Device::cuda, DType::f32, 1), half = make_ctx(Device::cuda, DType::bf16, 1);
  return dtype == DType::f32 ? wide : half;
}

void check(const Case& c, bool backward = true) {
  SCOPED_TRACE(testing::PrintToString(c));
  Operands o(gpu(c.dtype), c);
  o.run(backward);
  o.run_on_cpu();
  const int64_t w = o.width(), n = o.y_width();
  const double bound = tolerance::attention(c.dtype);
  const std::vector<double> y = o.y.download(), dqkv = o.dqkv.download();
  EXPECT_LE(furthest(o.lse.host, o.lse.download()), tolerance::attention_lse(c.dtype)) << "lse";
  EXPECT_LE(relative(columns(o.y.host, n, 0, n - c.gap), columns(y, n, 0, n - c.gap)), bound) << "y";
  // One tensor at a time; with a single key everywhere dq and dk are exactly 0, and what is left is what y lost: it and
  // the weights under it are rounded to bf16, by up to 2^-9 each, and sums of dy y see both.
  const int64_t ends[] = {0, c.H * c.d, (c.H + c.G) * c.d, (c.H + 2 * c.G) * c.d};
  const char* names[] = {"dq", "dk", "dv"};
  const double size = std::sqrt(static_cast<double>(c.B * c.T * c.H * c.d));  // norm of dy
  for (int i = 0; i < (backward ? 3 : 0); ++i) {
    const auto want = columns(o.dqkv.host, w, ends[i], ends[i + 1]), got = columns(dqkv, w, ends[i], ends[i + 1]);
    double norm = 0, error = 0;
    for (size_t j = 0; j < want.size(); ++j) {
      norm += want[j] * want[j];
      error += (want[j] - got[j]) * (want[j] - got[j]);
    }
    EXPECT_LE(std::sqrt(error), bound * std::max(std::sqrt(norm), 0.2 * size)) << names[i];
  }
  for (double x : columns(y, n, n - c.gap, n)) ASSERT_TRUE(std::isnan(x)) << "wrote between rows of y";
  for (double x : columns(dqkv, w, w - c.gap, w)) ASSERT_TRUE(std::isnan(x)) << "wrote between rows of dq, dk, dv";

  const auto y_bits = o.y.bits(), lse_bits = o.lse.bits(), d_bits = o.dqkv.bits();
  o.poison();
  o.run(backward);
  EXPECT_TRUE(y_bits == o.y.bits() && lse_bits == o.lse.bits()) << "forward is not repeatable";
  EXPECT_TRUE(d_bits == o.dqkv.bits()) << "backward is not repeatable";
}

constexpr DType kBoth[] = {DType::bf16, DType::f32};

TEST(AttentionOnGpu, EqualsTheCpuAtAnyLength) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth)
    for (int64_t T : {1, 5, 63, 64, 65, 127, 128, 200, 333})
      for (double gain : {0.0, 1.3}) check({T < 100 ? 3 : 1, T, 4, 2, 64, 0, false, 0, gain, dtype});
}

TEST(AttentionOnGpu, EqualsTheCpuWithGroupedHeads) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth) {
    check({1, 1024, 8, 4, 64, 0, false, 0, 1.3, dtype});
    check({2, 200, 1, 1, 64, 0, false, 8, 0, dtype});
    check({2, 200, 8, 8, 64, 0, false, 8, 0, dtype});
    check({1, 257, 6, 1, 64, 0, false, 0, 1.3, dtype});
  }
}

TEST(AttentionOnGpu, EqualsTheCpuWithWindows) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth)
    for (int64_t window : {1, 7, 64, 100, 130, 5000})
      for (double gain : {0.0, 1.3}) check({2, window == 130 ? 1024 : 333, 4, 2, 64, window, false, 0, gain, dtype});
}

TEST(AttentionOnGpu, EqualsTheCpuWithDocuments) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth)
    for (int64_t window : {0, 100})
      for (double gain : {0.0, 1.3}) {
        check({3, 200, 4, 2, 64, window, true, 0, gain, dtype});
        check({2, 1024, 4, 2, 64, window, true, 8, gain, dtype});
      }
}

TEST(AttentionOnGpu, EqualsTheCpuAtAnyHeadSizeAndAlignment) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth) {
    for (int64_t d : {4, 8, 16, 80}) {
      check({2, 65, 4, 2, d, 0, false, 0, 0, dtype});
      check({1, 200, 2, 1, d, 70, true, 3, 1.3, dtype});
    }
    check({2, 130, 4, 2, 64, 0, true, 1, 0, dtype});
    check({1, 333, 4, 2, 64, 100, false, 1, 1.3, dtype});
  }
}

TEST(AttentionOnGpu, EqualsTheCpuWithLargeGains) {
  // Up to where scores need their running maximum. Weights are then nearly 0 or 1, their gradients nearly 0: forward
  // only.
  BG_NEEDS_GPU();
  for (double gain : {5.0, 7.2, 9.0, 14.0}) check({1, 333, 4, 2, 64, 0, false, 0, gain, DType::bf16}, false);
}

TEST(AttentionOnGpu, DependsOnNothingLater) {
  BG_NEEDS_GPU();
  for (DType dtype : kBoth)
    for (double gain : {0.0, 1.3})
      for (int64_t window : {0, 100}) {
        const Case c{1, 333, 4, 2, 64, window, window != 0, 0, gain, dtype};
        SCOPED_TRACE(testing::PrintToString(c));
        Operands o(gpu(dtype), c);
        o.run(false);
        const auto y = o.y.bits(), lse = o.lse.bits();
        const size_t row = static_cast<size_t>(o.y_width()) * size_of(dtype);
        for (int64_t t : {332, 200, 128, 127, 1}) {
          Operands other(gpu(dtype), c);
          for (size_t i = static_cast<size_t>(t * o.width()); i < other.qkv.host.size(); ++i) other.qkv.host[i] *= -1;
          other.qkv.upload();
          other.run(false);
          EXPECT_TRUE(std::equal(y.begin(), y.begin() + static_cast<int64_t>(row) * t, other.y.bits().begin())) << t;
          EXPECT_NE(y, other.y.bits());
          Case shorter = c;
          shorter.T = t;
          Operands prefix(gpu(dtype), shorter);  // the same random numbers
          prefix.starts_there = std::move(o.starts_there);
          prefix.run(false);
          o.starts_there = std::move(prefix.starts_there);
          const auto part = prefix.y.bits(), part_lse = prefix.lse.bits();
          EXPECT_TRUE(std::equal(part.begin(), part.end(), y.begin())) << "T = " << t;
          for (int64_t h = 0; h < c.H; ++h)
            EXPECT_TRUE(
                std::equal(part_lse.begin() + 4 * h * t, part_lse.begin() + 4 * (h + 1) * t, lse.begin() + 4 * h * c.T))
                << "lse, T = " << t;
        }
      }
}

// At full length: rows here and there against the definition; the gradients of keys and values use the GPU's own lse
// and y, which the rows have checked.
TEST(AttentionOnGpu, EqualsTheDefinitionAtFullLength) {
  BG_NEEDS_GPU();
  for (double gain : {1.3, 0.0}) {
    const Case c{2, 4096, 8, 4, 64, 0, false, 0, gain, DType::bf16};
    SCOPED_TRACE(testing::PrintToString(c));
    Operands o(gpu(c.dtype), c);
    o.run();
    const auto y = o.y.download(), lse = o.lse.download(), dqkv = o.dqkv.download();
    const int64_t w = o.width(), n = o.y_width(), ratio = c.H / c.G;
    const auto at = [&](int64_t b, int64_t t, int64_t head) {
      return static_cast<size_t>((b * c.T + t) * w + head * c.d);
    };
    const auto y_at = [&](int64_t b, int64_t t, int64_t h) { return static_cast<size_t>((b * c.T + t) * n + h * c.d); };
    const auto dot = [&](const double* a, const double* b) {
      double sum = 0;
      for (int64_t j = 0; j < c.d; ++j) sum += a[j] * b[j];
      return sum;
    };
    const std::vector<double>&x = o.qkv.host, &dy = o.dy.host;
    std::vector<double> want[4], got[4];  // y, dq, dk, dv
    double worst_lse = 0;
    for (int64_t b = 0; b < c.B; ++b)
      for (int64_t h : {0, 3, 7})
        for (int64_t t : {0, 1, 127, 128, 1000, 2048, 3333, 4032, 4095}) {
          const int64_t g = h / ratio;
          std::vector<double> p(static_cast<size_t>(t + 1)), row(64, 0), drow(64, 0);
          double sum = 0, delta = 0;
          for (int64_t s = 0; s <= t; ++s)
            sum += p[static_cast<size_t>(s)] = std::exp(dot(&x[at(b, t, h)], &x[at(b, s, c.H + g)]) / 8);
          for (int64_t s = 0; s <= t; ++s) {
            p[static_cast<size_t>(s)] /= sum;
            for (size_t j = 0; j < 64; ++j) row[j] += p[static_cast<size_t>(s)] * x[at(b, s, c.H + c.G + g) + j];
          }
          delta = dot(row.data(), &dy[y_at(b, t, h)]);
          for (int64_t s = 0; s <= t; ++s) {
            const double ds =
                p[static_cast<size_t>(s)] * (dot(&dy[y_at(b, t, h)], &x[at(b, s, c.H + c.G + g)]) - delta) / 8;
            for (size_t j = 0; j < 64; ++j) drow[j] += ds * x[at(b, s, c.H + g) + j];
          }
          worst_lse = std::max(worst_lse, std::abs(std::log(sum) - lse[static_cast<size_t>((b * c.H + h) * c.T + t)]));
          for (size_t j = 0; j < 64; ++j) {
            want[0].push_back(row[j]);
            got[0].push_back(y[y_at(b, t, h) + j]);
            if (t == 0) continue;  // a single key: dq is 0
            want[1].push_back(drow[j]);
            got[1].push_back(dqkv[at(b, t, h) + j]);
          }
        }
    EXPECT_LE(worst_lse, tolerance::attention_lse(c.dtype));
    for (int64_t g : {0, 3})
      for (int64_t s : {0, 1, 130, 2047, 4000, 4095}) {
        std::vector<double> dk(64, 0), dv(64, 0);
        for (int64_t h = g * ratio; h < (g + 1) * ratio; ++h)
          for (int64_t t = s; t < c.T; ++t) {
            const double p = std::exp(dot(&x[at(1, t, h)], &x[at(1, s, c.H + g)]) / 8 -
                                      lse[static_cast<size_t>((c.H + h) * c.T + t)]);
            const double ds =
                p *
                (dot(&dy[y_at(1, t, h)], &x[at(1, s, c.H + c.G + g)]) - dot(&dy[y_at(1, t, h)], &y[y_at(1, t, h)])) / 8;
            for (size_t j = 0; j < 64; ++j) {
              dk[j] += ds * x[at(1, t, h) + j];
              dv[j] += p * dy[y_at(1, t, h) + j];
            }
          }
        for (size_t j = 0; j < 64; ++j) {
          want[2].push_back(dk[j]);
          got[2].push_back(dqkv[at(1, s, c.H + g) + j]);
          want[3].push_back(dv[j]);
          got[3].push_back(dqkv[at(1, s, c.H + c.G + g) + j]);
        }
      }
    const char* names[] = {"y", "dq", "dk", "dv"};
    for (int i = 0; i < 4; ++i) EXPECT_LE(relative(want[i], got[i]), tolerance::attention(c.dtype)) << names[i];

    const auto y_bits = o.y.bits(), d_bits = o.dqkv.bits();
    for (int repeat = 0; repeat < 3; ++repeat) {
      o.poison();
      o.run();
      EXPECT_TRUE(y_bits == o.y.bits() && d_bits == o.dqkv.bits()) << "not repeatable";
    }
  }
}

}  // namespace
}  // namespace bg
