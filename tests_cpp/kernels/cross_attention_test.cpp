// cross_attention_forward() and _backward() of kernels/attention.h: queries and keys of two sequences, ranges of keys.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "testing/op_case.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

// The sizes of a call, and what each query may see; empty lists: everything.
struct Sight {
  std::string name;
  int64_t B, Tq, Tk, H, G, d;
  std::vector<int32_t> first, last;

  bool sees(int64_t b, int64_t t, int64_t s) const {
    return first.empty() || (first[b * Tq + t] <= s && s <= last[b * Tq + t]);
  }
  Shape queries() const { return {B, Tq, H, d}; }
  Shape keys() const { return {B, Tk, G, d}; }
  Shape rows() const { return {B, H, Tq}; }
  KeyRange range(OpRun& r) const {
    if (first.empty()) return {};
    return {r.give(Owned::ids({B, Tq}, first)), r.give(Owned::ids({B, Tq}, last))};
  }
};

Sight all(int64_t B, int64_t Tq, int64_t Tk, int64_t H, int64_t G, int64_t d) {
  return {words("all keys", B, Tq, Tk, H, G, d), B, Tq, Tk, H, G, d, {}, {}};
}
// Ranges in no order, of 0 to Tk keys, some of them empty, some beyond the keys on either side.
Sight random_ranges(int64_t B, int64_t Tq, int64_t Tk, int64_t H, int64_t G, int64_t d) {
  Sight c = all(B, Tq, Tk, H, G, d);
  c.name = words("random ranges", B, Tq, Tk, H, G, d);
  const Random random(31, c.name);
  for (int64_t i = 0; i < B * Tq; ++i) {
    const auto from = static_cast<int32_t>(random.below(3 * i, static_cast<uint64_t>(Tk + 4))) - 2,
               size = static_cast<int32_t>(random.below(3 * i + 1, static_cast<uint64_t>(Tk + 1)));
    c.first.push_back(from);
    c.last.push_back(random.below(3 * i + 2, 5) == 0 ? std::numeric_limits<int32_t>::min() : from + size - 1);
  }
  return c;
}
// Queries that share the keys among them in order, 0 to 2 Tk/Tq each: patches that read their bytes.
Sight patches_of_bytes(int64_t B, int64_t Tq, int64_t Tk, int64_t H, int64_t G, int64_t d) {
  Sight c = all(B, Tq, Tk, H, G, d);
  c.name = words("patches of bytes", B, Tq, Tk, H, G, d);
  const Random random(37, c.name);
  for (int64_t b = 0, i = 0; b < B; ++b)
    for (int64_t t = 0, s = 0; t < Tq; ++t, ++i) {
      const int64_t n = std::min<int64_t>(Tk - s, static_cast<int64_t>(random.below(i, 2 * Tk / Tq + 1)));
      c.first.push_back(static_cast<int32_t>(s));
      c.last.push_back(static_cast<int32_t>((s += n) - 1));
    }
  return c;
}
// Each query reads the last few keys before it, none at first: bytes that read the patches before theirs.
Sight bytes_of_patches(int64_t B, int64_t Tq, int64_t Tk, int64_t H, int64_t G, int64_t d) {
  Sight c = all(B, Tq, Tk, H, G, d);
  c.name = words("bytes of patches", B, Tq, Tk, H, G, d);
  for (int64_t i = 0; i < B * Tq; ++i) {
    const int64_t own = i % Tq * Tk / Tq;
    c.first.push_back(static_cast<int32_t>(std::max<int64_t>(0, own - 5)));
    c.last.push_back(static_cast<int32_t>(own - 1));
  }
  return c;
}
// What attention_forward() sees with a window and documents.
Sight causal(int64_t B, int64_t T, int64_t H, int64_t G, int64_t d, int64_t window, const std::vector<int32_t>& start) {
  Sight c = all(B, T, T, H, G, d);
  c.name = words("causal", B, T, H, G, d, window);
  for (int64_t i = 0; i < B * T; ++i) {
    c.first.push_back(std::max<int32_t>(start[i], static_cast<int32_t>(window ? i % T - window + 1 : 0)));
    c.last.push_back(static_cast<int32_t>(i % T));
  }
  return c;
}

// The definition as a dense matrix of weights, masked: y, then lse.
Lists definition(const Sight& c, const Lists& in) {
  std::vector<double> y(c.queries().numel(), 0), lse(c.rows().numel());
  for (int64_t b = 0; b < c.B; ++b)
    for (int64_t h = 0; h < c.H; ++h) {
      const int64_t g = h / (c.H / c.G);
      for (int64_t t = 0; t < c.Tq; ++t) {
        std::vector<double> weight(c.Tk, 0);
        double sum = 0;
        for (int64_t s = 0; s < c.Tk; ++s) {
          if (!c.sees(b, t, s)) continue;
          double score = 0;
          for (int64_t j = 0; j < c.d; ++j)
            score += in[0][((b * c.Tq + t) * c.H + h) * c.d + j] * in[1][((b * c.Tk + s) * c.G + g) * c.d + j];
          sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(c.d)));
        }
        lse[(b * c.H + h) * c.Tq + t] = std::log(sum);  // of 0: -infinity
        for (int64_t s = 0; s < c.Tk; ++s)
          for (int64_t j = 0; weight[s] > 0 && j < c.d; ++j)
            y[((b * c.Tq + t) * c.H + h) * c.d + j] += weight[s] / sum * in[2][((b * c.Tk + s) * c.G + g) * c.d + j];
      }
    }
  return {y, lse};
}

OpCase op(const Sight& c) {
  OpCase o;
  o.name = c.name;
  o.inputs = {{"q", c.queries()}, {"k", c.keys()}, {"v", c.keys()}};
  o.outputs = {{c.queries()}};
  o.forward = [=](OpRun& r) {
    const Tensor lse = r.keep_full(c.rows());
    cross_attention_forward(r.ctx, r.in[0], r.in[1], r.in[2], c.range(r), r.out[0], lse);
  };
  o.backward = [=](OpRun& r) {
    const Tensor scratch = r.give(Owned(DType::u8, {cross_attention_scratch_bytes(r.ctx.device, c.B, c.Tq, c.H)}));
    cross_attention_backward(r.ctx, r.in[0], r.in[1], r.in[2], c.range(r), r.out[0], r.kept[0], r.dout[0], r.din[0],
                             r.din[1], r.din[2], scratch);
  };
  o.formula = [=](const Lists& in) { return Lists{definition(c, in)[0]}; };
  return o;
}

// More queries than keys, fewer, as many; one head for each key head, and several.
std::vector<Sight> small() {
  return {all(1, 1, 1, 1, 1, 1),
          all(2, 3, 7, 2, 1, 5),
          all(1, 9, 4, 4, 2, 3),
          random_ranges(2, 7, 7, 2, 2, 3),
          random_ranges(3, 5, 19, 4, 2, 4),
          random_ranges(2, 23, 6, 6, 1, 2),
          patches_of_bytes(2, 6, 25, 2, 1, 4),
          bytes_of_patches(2, 25, 6, 4, 4, 3)};
}
std::vector<Sight> large() {
  return {random_ranges(1, 70, 210, 4, 2, 32), patches_of_bytes(2, 60, 250, 4, 4, 20),
          bytes_of_patches(2, 250, 60, 4, 2, 20)};
}

TEST(CrossAttention, ForwardEqualsItsFormula) {
  for (const Sight& c : small()) prove_formula(op(c));
}
TEST(CrossAttention, GradientsEqualFiniteDifferences) {
  for (const Sight& c : small()) prove_gradients(op(c));
}
TEST(CrossAttention, GradientsOverwrite) {
  for (const Sight& c : small()) prove_writes(op(c));
}
TEST(CrossAttention, BitsDependNeitherOnThreadsNorOnRepetition) {
  for (const Sight& c : large()) prove_threads(op(c));
}
TEST(CrossAttention, Float32AgreesWithFloat64AtRealisticSizes) {
  for (const Sight& c : large()) prove_float32(op(c));
}

// Everything of one call, in the order y, lse, dq, dk, dv.
struct Results {
  std::vector<Owned> tensors;
  std::string bits() const {
    std::string out;
    for (const Owned& t : tensors) out += t.bits();
    return out;
  }
};
// forward and backward: called with q, k, v, y, lse, dy, dq, dk, dv. Values are rounded to `rounded`.
template <class Call>
Results results(const Ctx& ctx, const Sight& c, DType rounded, Call&& call) {
  const DType dtype = ctx.dtype;
  std::vector<Owned> in, out;
  for (auto [name, shape] : {std::pair("q", c.queries()), {"k", c.keys()}, {"v", c.keys()}, {"dy", c.queries()}})
    in.push_back(Owned::normal(dtype, shape, c.name + name, 1, 0, rounded).to(ctx));
  for (const Shape& shape : {c.queries(), c.rows(), c.queries(), c.keys(), c.keys()}) {
    Owned t(out.size() == 1 ? ctx.full_dtype() : dtype, shape);
    t.fill(kPoison);
    out.push_back(t.to(ctx));
  }
  call(in[0], in[1], in[2], out[0], out[1], in[3], out[2], out[3], out[4]);
  Results r;
  for (const Owned& t : out) r.tensors.push_back(t.host(ctx));
  return r;
}
Results run(const Ctx& ctx, const Sight& c, DType rounded) {
  OpRun r;
  r.ctx = ctx;
  const Tensor scratch = r.give(Owned(DType::u8, {cross_attention_scratch_bytes(ctx.device, c.B, c.Tq, c.H)}));
  const KeyRange range = c.range(r);
  return results(ctx, c, rounded,
                 [&](Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv) {
                   cross_attention_forward(ctx, q, k, v, range, y, lse);
                   cross_attention_backward(ctx, q, k, v, range, y, lse, dy, dq, dk, dv, scratch);
                 });
}
// The same through attention_forward() and attention_backward().
Results run_causal(const Ctx& ctx, const Sight& c, int64_t window, const std::vector<int32_t>& start) {
  OpRun r;
  r.ctx = ctx;
  const Tensor doc_start = r.give(Owned::ids({c.B, c.Tq}, start)),
               scratch =
                   r.give(Owned(DType::u8, {attention_scratch_bytes(ctx.device, ctx.dtype, c.B, c.Tq, c.H, c.d)}));
  return results(ctx, c, ctx.dtype,
                 [&](Tensor q, Tensor k, Tensor v, Tensor y, Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv) {
                   attention_forward(ctx, q, k, v, window, doc_start, y, lse);
                   attention_backward(ctx, q, k, v, window, doc_start, y, lse, dy, dq, dk, dv, scratch);
                 });
}

// Documents of 1 to 11 positions.
std::vector<int32_t> documents(int64_t B, int64_t T) {
  std::vector<int32_t> start;
  for (int64_t i = 0; i < B * T; ++i)
    start.push_back(i % T == 0 ? 0 : i % T * 5 % 11 < 2 ? static_cast<int32_t>(i % T) : start.back());
  return start;
}

double relative(const std::vector<double>& want, const std::vector<double>& got) {
  double top = 0, bottom = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    top += (want[i] - got[i]) * (want[i] - got[i]);
    bottom += want[i] * want[i];
  }
  return std::sqrt(top / std::max(bottom, 1e-300));
}

TEST(CrossAttention, KeepsTheLogarithmOfItsSum) {
  for (const Sight& c : small())
    for (DType dtype : {DType::f64, DType::f32}) {
      Lists in;
      for (auto [name, shape] : {std::pair("q", c.queries()), {"k", c.keys()}, {"v", c.keys()}})
        in.push_back(Owned::normal(DType::f64, shape, c.name + name).values());
      const std::vector<double> want = definition(c, in)[1],
                                got = run(context(dtype), c, DType::f32).tensors[1].values();
      for (size_t i = 0; i < want.size(); ++i) {
        if (std::isinf(want[i]))
          ASSERT_EQ(got[i], want[i]) << c.name;
        else
          ASSERT_NEAR(got[i], want[i], tolerance::formula(dtype) * 4) << c.name;
      }
    }
}

// A query without keys, and a key that nobody sees, on this device.
void prove_nothing(const Ctx& ctx) {
  Sight c = all(1, 3, 4, 2, 1, 5);
  c.first = {1, 2, 1};
  c.last = {2, 1, 2};  // query 1 sees nothing; nobody sees keys 0 and 3
  const Results r = run(ctx, c, DType::f32);
  const std::vector<double> y = r.tensors[0].values(), lse = r.tensors[1].values(), dq = r.tensors[2].values();
  for (int64_t i = 0; i < 3 * 10; ++i) {
    EXPECT_EQ(y[i] == 0, i / 10 == 1) << i;
    EXPECT_EQ(dq[i] == 0, i / 10 == 1) << i;
  }
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(lse[i] == -std::numeric_limits<double>::infinity(), i % 3 == 1) << i;
  for (int tensor : {3, 4})
    for (int64_t i = 0; i < 4 * 5; ++i)
      EXPECT_EQ(r.tensors[tensor].at(i) == 0, i / 5 == 0 || i / 5 == 3) << tensor << " " << i;
}
TEST(CrossAttention, AQueryWithoutKeysAndAKeyWithoutQueriesGetExactZeros) {
  for (DType dtype : {DType::f32, DType::f64}) prove_nothing(context(dtype));
}

TEST(CrossAttention, RangesOfAWindowAndDocumentsGiveTheNumbersOfCausalAttention) {
  for (int64_t window : {0, 1, 7}) {
    const int64_t B = 2, T = 41;
    const std::vector<int32_t> start = documents(B, T);
    const Sight c = causal(B, T, 4, 2, 5, window, start);
    EXPECT_TRUE(run(context(DType::f64), c, DType::f64).bits() ==
                run_causal(context(DType::f64), c, window, start).bits());
    const Results want = run_causal(context(DType::f32), c, window, start),
                  got = run(context(DType::f32), c, DType::f32);
    for (size_t i = 0; i < 5; ++i) {
      if (window == 1 && (i == 2 || i == 3)) continue;  // with one key the gradients of q and k are 0 but for rounding
      EXPECT_LE(relative(want.tensors[i].values(), got.tensors[i].values()), tolerance::kOpFloat32) << i;
    }
  }
}

// Against float64 on the CPU from values rounded alike.
void prove_on_gpu(const Sight& c) {
  for (DType dtype : {DType::bf16, DType::f32}) {
    SCOPED_TRACE(c.name + " " + name_of(dtype));
    const Results want = run(context(DType::f64), c, dtype), got = run(cuda_context(dtype), c, dtype);
    EXPECT_TRUE(run(cuda_context(dtype), c, dtype).bits() == got.bits()) << "other bits when repeated";
    const std::vector<double> want_lse = want.tensors[1].values(), got_lse = got.tensors[1].values();
    for (size_t i = 0; i < want_lse.size(); ++i) {
      if (std::isinf(want_lse[i]))
        ASSERT_EQ(got_lse[i], want_lse[i]);
      else
        ASSERT_NEAR(got_lse[i], want_lse[i], tolerance::attention_lse(dtype));
    }
    EXPECT_LE(relative(want.tensors[0].values(), got.tensors[0].values()), tolerance::attention(dtype)) << "y";
    // With few keys a query, gradients are almost 0, and what is left is what y lost: see attention_cuda_test.cpp.
    const double size = std::sqrt(static_cast<double>(c.queries().numel()));  // norm of dy
    const char* names[] = {"dq", "dk", "dv"};
    for (int i = 0; i < 3; ++i) {
      const std::vector<double> a = want.tensors[2 + i].values(), b = got.tensors[2 + i].values();
      double norm = 0, error = 0;
      for (size_t j = 0; j < a.size(); ++j) {
        norm += a[j] * a[j];
        error += (a[j] - b[j]) * (a[j] - b[j]);
      }
      EXPECT_LE(std::sqrt(error), tolerance::attention(dtype) * std::max(std::sqrt(norm), 0.2 * size)) << names[i];
    }
  }
}

TEST(CrossAttentionOnGpu, EqualsTheCpu) {
  BG_NEEDS_GPU();
  for (const Sight& c : small()) prove_on_gpu(c);
  for (const Sight& c : large()) prove_on_gpu(c);
  for (int64_t d : {20, 64, 80})
    for (const Sight& c : {all(2, 65, 130, 4, 2, d), all(1, 200, 33, 2, 1, d), random_ranges(2, 129, 300, 4, 2, d),
                           random_ranges(2, 300, 129, 6, 1, d), patches_of_bytes(2, 100, 450, 4, 4, d),
                           bytes_of_patches(2, 450, 100, 4, 2, d)})
      prove_on_gpu(c);
}
TEST(CrossAttentionOnGpu, AQueryWithoutKeysAndAKeyWithoutQueriesGetExactZeros) {
  BG_NEEDS_GPU();
  prove_nothing(cuda_context(DType::f32));
}
TEST(CrossAttentionOnGpu, RangesOfAWindowAndDocumentsGiveTheBitsOfCausalAttention) {
  BG_NEEDS_GPU();
  for (DType dtype : {DType::bf16, DType::f32})
    for (int64_t window : {0, 1, 70})
      for (int64_t d : {20, 80}) {  // heads that the general kernels serve in both calls
        const std::vector<int32_t> start = documents(2, 200);
        const Sight c = causal(2, 200, 4, 2, d, window, start);
        EXPECT_TRUE(run(cuda_context(dtype), c, dtype).bits() ==
                    run_causal(cuda_context(dtype), c, window, start).bits())
            << c.name;
      }
}

TEST(CrossAttention, NoKeysOrNoQueriesAreACallLikeAnyOther) {
  for (const auto& [Tq, Tk] : {std::pair<int64_t, int64_t>{3, 0}, {0, 3}}) {
    const Results r = run(context(DType::f32), all(1, Tq, Tk, 2, 1, 4), DType::f32);
    for (int tensor : {0, 2, 3, 4})
      for (double x : r.tensors[tensor].values()) EXPECT_EQ(x, 0) << tensor;
  }
}

TEST(CrossAttention, RefusesOperandsThatDisagree) {
  const Ctx ctx = context(DType::f32);
  Owned q(DType::f32, {1, 3, 2, 4}), k(DType::f32, {1, 5, 1, 4}), v(DType::f32, {1, 5, 1, 4}),
      y(DType::f32, {1, 3, 2, 4}), lse(DType::f32, {1, 2, 3}), other(DType::f32, {1, 4, 1, 4});
  for (Owned* t : {&q, &k, &v}) t->fill(1);
  const Owned first = Owned::ids({1, 3}, {0, 0, 0}), last = Owned::ids({1, 3}, {4, 4, 4}),
              longer = Owned::ids({1, 5}, {0, 0, 0, 0, 0});
  const auto elsewhere = [](Tensor t) { return Tensor(t.data(), t.shape(), t.dtype(), Device::cuda); };
  EXPECT_NO_THROW(cross_attention_forward(ctx, q, k, v, {first, last}, y, lse));
  EXPECT_THROW(cross_attention_forward(ctx, q, k, other, {first, last}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, k, v, {first, longer}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, k, v, {first, Tensor()}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, k, v, {Owned(DType::f32, {1, 3}), last}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, elsewhere(k), v, {first, last}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, k, v, {elsewhere(first), last}, y, lse), InvalidArgument);
  EXPECT_THROW(cross_attention_forward(ctx, q, k, v, {first, last}, y, elsewhere(lse)), InvalidArgument);
  EXPECT_THROW(attention_forward(ctx, q, k, v, 0, Tensor(), y, lse), InvalidArgument);  // Tq != Tk
}

}  // namespace
}  // namespace bg
