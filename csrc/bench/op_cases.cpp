// The ops that are timed, on the shapes of byte260-jepa (D 512, F 1024, H 8, G 4, d 64) at B = 2, T = 1024.
#include <cmath>

#include "bench/cases.h"
#include "kernels/attention.h"
#include "kernels/gemm.h"
#include "kernels/gemm_library.h"
#include "kernels/update.h"
#include "optim/newton_schulz.h"

namespace bg::bench {
namespace {

// Each 997th element of C against its dot product in float64.
double sampled_error(Tensor a, bool ta, Tensor b, bool tb, Tensor c) {
  double off = 0, size = 0;
  const int64_t K = a.dim(ta ? 0 : 1);
  for (int64_t at = 0; at < c.numel(); at += 997) {
    const int64_t i = at / c.dim(1), j = at % c.dim(1);
    double want = 0;
    for (int64_t k = 0; k < K; ++k)
      want += static_cast<double>(a.ptr<float>()[ta ? k * a.stride(0) + i : i * a.stride(0) + k]) *
              static_cast<double>(b.ptr<float>()[tb ? j * b.stride(0) + k : k * b.stride(0) + j]);
    const double e = static_cast<double>(c.ptr<float>()[at]) - want;
    off += e * e;
    size += want * want;
  }
  return std::sqrt(off / size);
}

struct AttentionOperands {
  Operands own;
  Tensor q, k, v, y, lse, dy, dq, dk, dv, scratch;
  int64_t window;

  AttentionOperands(int64_t B, int64_t T, int64_t window_) : window(window_) {
    constexpr int64_t H = 8, G = 4, d = 64;
    q = own.normal("q", {B, T, H, d});
    k = own.normal("k", {B, T, G, d});
    v = own.normal("v", {B, T, G, d});
    y = own.zeros({B, T, H, d});
    lse = own.zeros({B, H, T});
    dy = own.normal("dy", {B, T, H, d});
    dq = own.zeros({B, T, H, d});
    dk = own.zeros({B, T, G, d});
    dv = own.zeros({B, T, G, d});
    scratch = own.zeros({attention_scratch_bytes(Device::cpu, DType::f32, B, T, H, d)}, DType::u8);
  }
  void forward(const Ctx& ctx) { attention_forward(ctx, q, k, v, window, Tensor(), y, lse); }
  void backward(const Ctx& ctx) { attention_backward(ctx, q, k, v, window, Tensor(), y, lse, dy, dq, dk, dv, scratch); }
  std::string shape() const {
    std::string s = words("B", q.dim(0), "T", q.dim(1), "H", q.dim(2), "G", k.dim(2), "d", q.dim(3));
    return window ? words(s, "window", window) : s;
  }
  double pairs() const {  // of a query and a key it sees
    const double T = static_cast<double>(q.dim(1)), W = static_cast<double>(window);
    return static_cast<double>(q.dim(0) * q.dim(2)) * (window ? T * W - W * (W - 1) / 2 : T * (T + 1) / 2);
  }
  double forward_flops() const { return 4 * pairs() * static_cast<double>(q.dim(3)); }

  // The first group of the first row in float64, by plain loops: y or the gradients.
  double error(const Ctx& ctx, bool backward) const {
    Ctx reference = ctx;
    reference.dtype = DType::f64;
    Operands o;
    const int64_t per_group = q.dim(2) / k.dim(2), T = q.dim(1), d = q.dim(3);
    const auto group = [](Tensor x, int64_t heads) { return x.slice(0, 0, 1).slice(2, 0, heads); };
    const Tensor Q = group(o.doubled(q), per_group), K = group(o.doubled(k), 1), V = group(o.doubled(v), 1);
    const Tensor Y = o.zeros({1, T, per_group, d}, DType::f64), L = o.zeros({1, per_group, T}, DType::f64);
    attention_forward(reference, Q, K, V, window, Tensor(), Y, L);
    if (!backward) return relative_error(group(y, per_group), Y);
    const Tensor DQ = o.zeros(Y.shape(), DType::f64);
    const Tensor DK = o.zeros({1, T, 1, d}, DType::f64), DV = o.zeros({1, T, 1, d}, DType::f64);
    const Tensor space = o.zeros({attention_scratch_bytes(Device::cpu, DType::f64, 1, T, per_group, d)}, DType::u8);
    attention_backward(reference, Q, K, V, window, Tensor(), Y, L, group(o.doubled(dy), per_group), DQ, DK, DV, space);
    return std::max(
        {relative_error(group(dq, per_group), DQ), relative_error(group(dk, 1), DK), relative_error(group(dv, 1), DV)});
  }
};

std::vector<Case> attention_cases(const Ctx& ctx, bool backward) {
  std::vector<Case> cases;
  struct Size {
    int64_t B, T, window;
  };
  for (const Size& size : {Size{2, 1024, 0}, Size{1, 4096, 0}, Size{1, 4096, 512}}) {
    const auto o = std::make_shared<AttentionOperands>(size.B, size.T, size.window);
    o->forward(ctx);
    const double io = static_cast<double>(o->q.size_bytes() + o->k.size_bytes() + o->v.size_bytes() +
                                          o->y.size_bytes() + o->lse.size_bytes());
    Case c;
    c.shape = o->shape();
    c.flops = o->forward_flops() * (backward ? 2.5 : 1);
    c.bytes = backward ? io + io : io;
    c.tolerance = 1e-5;
    c.run = [o, ctx, backward] { backward ? o->backward(ctx) : o->forward(ctx); };
    c.error = [o, ctx, backward] { return o->error(ctx, backward); };
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace

std::vector<Case> gemm_cases(const Ctx& ctx) {
  struct Size {
    int64_t M, N, K;
    bool ta, tb;
    const char* what;
  };
  std::vector<Case> cases;
  for (const GemmLibraryInfo& library : gemm_libraries()) {
    if (!library.available) continue;
    for (const Size& s : {Size{4096, 512, 512, false, true, "linear"}, Size{2048, 512, 512, false, true, "linear"},
                          Size{2048, 1024, 512, false, true, "linear"}, Size{2048, 512, 512, false, false, "dx"},
                          Size{512, 1024, 2048, true, false, "dw"}, Size{256, 256, 64, false, true, "linear"},
                          Size{512, 512, 512, false, false, "square"}}) {
      const auto o = std::make_shared<Operands>();
      const Tensor a = o->normal("a", s.ta ? Shape{s.K, s.M} : Shape{s.M, s.K});
      const Tensor b = o->normal("b", s.tb ? Shape{s.N, s.K} : Shape{s.K, s.N});
      const Tensor out = o->zeros({s.M, s.N});
      Ctx with = ctx;
      with.gemm_library = library.library;
      Case c;
      c.shape =
          words(library.name, std::to_string(s.M) + "x" + std::to_string(s.N) + "x" + std::to_string(s.K), s.what);
      c.flops = 2.0 * static_cast<double>(s.M * s.N * s.K);
      c.bytes = 4.0 * static_cast<double>(s.M * s.K + s.K * s.N + s.M * s.N);
      c.tolerance = 1e-5;
      c.run = [o, a, b, out, s, with] {
        gemm(with, 1, a, s.ta ? Op::transpose : Op::none, b, s.tb ? Op::transpose : Op::none, 0, out);
      };
      c.error = [o, a, b, out, s] { return sampled_error(a, s.ta, b, s.tb, out); };
      cases.push_back(std::move(c));
    }
  }
  return cases;
}

std::vector<Case> attention_forward_cases(const Ctx& ctx) {
  return attention_cases(ctx, false);
}
std::vector<Case> attention_backward_cases(const Ctx& ctx) {
  return attention_cases(ctx, true);
}

std::vector<Case> newton_schulz_cases(const Ctx& ctx) {
  std::vector<Case> cases;
  for (const auto& [R, C] : {std::pair<int64_t, int64_t>{512, 512}, {256, 512}, {1024, 512}, {512, 1024}}) {
    const auto o = std::make_shared<Operands>();
    const Tensor g = o->normal("g", {R, C}), out = o->zeros({R, C}), space = o->zeros({newton_schulz_scratch(R, C)});
    Case c;
    c.shape = words(R, "x", C);
    // A and A^2 are symmetric: half of their products; then one full product.
    const double n = static_cast<double>(std::min(R, C)), m = static_cast<double>(std::max(R, C));
    c.flops = 5 * (n * n * m + n * n * n + 2 * n * n * m);
    c.bytes = 8.0 * n * m;
    c.tolerance = 1e-3;  // 5 steps multiply a rounding error by about 3.4^5
    c.run = [o, g, out, space, ctx] { newton_schulz(ctx, g, 5, space, out); };
    c.error = [o, g, out, ctx] {
      Ctx reference = ctx;
      reference.dtype = DType::f64;
      const Tensor want = o->zeros(out.shape(), DType::f64);
      const Tensor room = o->zeros({newton_schulz_scratch(g.dim(0), g.dim(1))}, DType::f64);
      newton_schulz(reference, o->doubled(g), 5, room, want);
      return relative_error(out, want);
    };
    cases.push_back(std::move(c));
  }
  return cases;
}

std::vector<Case> adam_cases(const Ctx& ctx) {
  const int64_t n = 4 << 20;
  const auto o = std::make_shared<Operands>();
  const Tensor p = o->normal("p", {n}), g = o->normal("g", {n}), average = o->normal("p", {n});
  const Tensor m = o->zeros({n}), v = o->zeros({n});
  AdamStep step;
  step.lr = 1e-3;
  step.beta1 = 0.9;
  step.beta2 = 0.95;
  step.eps = 1e-8;
  step.correction1 = 0.1;
  step.correction2 = 0.05;
  step.average_weight = 0.003;
  Case c;
  c.shape = words(n, "parameters and their average");
  c.bytes = 9.0 * 4 * static_cast<double>(n);
  c.tolerance = 1e-6;
  c.run = [o, p, g, m, v, average, step, ctx] { adam_step(ctx, step, p, g, m, v, average); };
  const auto first = std::make_shared<bool>(true);
  c.error = [o, p, first] {
    // After the first step from zero moments each element has moved by lr against its gradient's sign.
    if (!*first) return 0.0;
    *first = false;
    const Tensor old = o->doubled(o->normal("p", p.shape())), grad = o->normal("g", p.shape());
    for (int64_t i = 0; i < p.numel(); ++i) {
      const double gi = static_cast<double>(grad.ptr<float>()[i]);
      old.ptr<double>()[i] -= 1e-3 * gi / (std::abs(gi) + 1e-8);
    }
    return relative_error(p, old);
  };
  return {std::move(c)};
}

}  // namespace bg::bench
