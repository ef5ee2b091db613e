// The ops whose floor is memory, on the shapes of byte260-jepa at B = 2, T = 1024: each against its float64 body.
#include <numeric>

#include "bench/cases.h"
#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/latent_loss.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"
#include "kernels/segment.h"
#include "kernels/smear.h"
#include "kernels/softmax_xent.h"
#include "kernels/xsa.h"

namespace bg::bench {
namespace {

using Tensors = std::vector<Tensor>;
using Body = std::function<void(const Ctx&, const Tensors& in, const Tensors& out)>;

// `in` are normal numbers, `out` zeros; results are compared after the first call, before sums grow.
Case elementwise(const Ctx& ctx, const std::string& what, const std::vector<Shape>& in, const std::vector<Shape>& out,
                 Body body) {
  const auto own = std::make_shared<Operands>();
  Tensors x, y;
  for (size_t i = 0; i < in.size(); ++i) x.push_back(own->normal(what + std::to_string(i), in[i]));
  for (const Shape& s : out) y.push_back(own->zeros(s));
  Case c;
  c.shape = words(what, in[0].str());
  for (const Tensors& ts : {x, y})
    for (const Tensor& t : ts) c.bytes += static_cast<double>(t.size_bytes());
  c.tolerance = 2e-5;
  c.run = [own, ctx, x, y, body] { body(ctx, x, y); };
  c.error = [own, ctx, what, x, y, body] {
    Ctx reference = ctx;
    reference.dtype = DType::f64;
    Operands o;
    Tensors xd, yd;
    for (size_t i = 0; i < x.size(); ++i) xd.push_back(o.doubled(own->normal(what + std::to_string(i), x[i].shape())));
    for (const Tensor& t : y) yd.push_back(o.zeros(t.shape(), DType::f64));
    body(reference, xd, yd);
    double worst = 0;
    for (size_t i = 0; i < y.size(); ++i) worst = std::max(worst, relative_error(y[i], yd[i]));
    return worst;
  };
  return c;
}

// Ids 0 .. V-1 in a fixed, mixed order.
Tensor mixed_ids(const std::shared_ptr<Operands>& own, Shape shape, int64_t V) {
  const Tensor ids = own->zeros(shape, DType::i32);
  for (int64_t i = 0; i < ids.numel(); ++i) ids.ptr<int32_t>()[i] = static_cast<int32_t>(i * 7919 % V);
  return ids;
}

}  // namespace

std::vector<Case> elementwise_cases(const Ctx& ctx) {
  constexpr int64_t B = 2, T = 1024, N = B * T, D = 512, F = 1024, H = 8, G = 4, d = 64, V = 260, r = 16, chunk = 8;
  const Shape rows{N, D}, rows3{B, T, D}, hidden{N, F}, packed{B, T, (H + 2 * G) * d}, q{B, T, H, d}, k{B, T, G, d};
  const Shape heads{B, T, H + G}, latents{B, T / chunk, D};
  const auto own = std::make_shared<Operands>();
  const Tensor ids = mixed_ids(own, {N}, V);
  const double eps = 1e-7;
  const Activation mlp = Activation::parse("leaky_relu2", 0.5);
  const auto rope = [](const Ctx& c) {
    auto memory = std::make_shared<Operands>();
    const Tensor table = memory->zeros({T, r}, c.dtype);
    rope_table(c, 10000, 4096, table);
    return std::pair{memory, table};
  };
  const auto rope32 = rope(ctx);
  Ctx reference = ctx;
  reference.dtype = DType::f64;
  const auto rope64 = rope(reference);
  const auto turns = [rope32, rope64](const Ctx& c) { return c.dtype == DType::f32 ? rope32.second : rope64.second; };

  std::vector<Case> cases;
  const auto add = [&](const std::string& what, const std::vector<Shape>& in, const std::vector<Shape>& out,
                       Body body) { cases.push_back(elementwise(ctx, what, in, out, std::move(body))); };
  add("rms_norm forward", {rows}, {rows, {N}},
      [=](const Ctx& c, const Tensors& x, const Tensors& y) { rms_norm_forward(c, x[0], 1, eps, y[0], y[1]); });
  add("rms_norm backward", {rows, {N}, rows}, {rows}, [](const Ctx& c, const Tensors& x, const Tensors& y) {
    rms_norm_backward(c, x[0], x[1], 1, x[2], y[0], Write::set);
  });
  add("residual_mix forward", {rows, rows, {2, D}}, {rows},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { residual_mix_forward(c, x[0], x[1], x[2], y[0]); });
  add("residual_mix backward", {rows, rows, {2, D}, rows}, {rows, rows, {2, D}},
      [](const Ctx& c, const Tensors& x, const Tensors& y) {
        residual_mix_backward(c, x[0], x[1], x[2], x[3], y[0], y[1], y[2]);
      });
  add("scaled_add forward", {rows, rows, {D}}, {rows},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { scaled_add_forward(c, x[0], x[1], x[2], y[0]); });
  add("scaled_add backward", {rows, {D}, rows}, {rows, {D}},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { scaled_add_backward(c, x[0], x[1], x[2], y[0], y[1]); });
  add("smear forward", {rows3, {D}}, {rows3},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { smear_forward(c, x[0], x[1], y[0]); });
  add("smear backward", {rows3, {D}, rows3}, {rows3, {D}},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { smear_backward(c, x[0], x[1], x[2], y[0], y[1]); });
  add("embedding forward", {{V, D}}, {rows},
      [own, ids](const Ctx& c, const Tensors& x, const Tensors& y) { embedding_forward(c, ids, x[0], y[0]); });
  add("embedding backward", {rows}, {{V, D}},
      [own, ids](const Ctx& c, const Tensors& x, const Tensors& y) { embedding_backward(c, ids, x[0], y[0]); });
  add("qk_norm_rope forward", {packed, {H}}, {q, k, heads}, [turns](const Ctx& c, const Tensors& x, const Tensors& y) {
    qk_norm_rope_forward(c, x[0], x[1], turns(c), 1e-7, y[0], y[1], y[2]);
  });
  add("qk_norm_rope backward", {packed, {H}, heads, q, k}, {packed, {H}},
      [turns](const Ctx& c, const Tensors& x, const Tensors& y) {
        qk_norm_rope_backward(c, x[0], x[1], turns(c), x[2], x[3], x[4], y[0], y[1]);
      });
  add("xsa forward", {q, k}, {q},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { xsa_forward(c, x[0], x[1], y[0]); });
  add("xsa backward value", {q, k, q}, {k},
      [](const Ctx& c, const Tensors& x, const Tensors& y) { xsa_backward_value(c, x[0], x[1], x[2], y[0]); });
  add("leaky_relu2 forward", {hidden}, {hidden},
      [mlp](const Ctx& c, const Tensors& x, const Tensors& y) { activation_forward(c, mlp, x[0], y[0]); });
  add("leaky_relu2 backward", {hidden, hidden}, {hidden}, [mlp](const Ctx& c, const Tensors& x, const Tensors& y) {
    activation_backward(c, mlp, x[0], x[1], y[0], Tensor());
  });
  add("softcap", {{N, V}}, {{N, V}}, [](const Ctx& c, const Tensors& x, const Tensors& y) {
    fill_zero(c, y[0]);
    accumulate(c, x[0], y[0]);
    softcap(c, 30, y[0]);
  });
  const Tensor nll = own->zeros({N}, DType::f64);
  add("softmax_xent forward", {{N, V}}, {{N}}, [own, ids, nll](const Ctx& c, const Tensors& x, const Tensors& y) {
    softmax_xent_forward(c, x[0], ids, nll, y[0]);
  });
  add("softmax_xent backward", {{N, V}, {N}}, {{N, V}}, [own, ids](const Ctx& c, const Tensors& x, const Tensors& y) {
    softmax_xent_backward(c, x[0], ids, x[1], 30, 1.0 / N, y[0]);
  });
  add("segment_mean", {rows3}, {latents}, [=](const Ctx& c, const Tensors& x, const Tensors& y) {
    segment_mean_forward(c, x[0], Segments::equal(x[0].dim(1), chunk), y[0]);
  });
  add("segment_add", {latents}, {rows3}, [=](const Ctx& c, const Tensors& x, const Tensors& y) {
    fill_zero(c, y[0]);
    segment_add_forward(c, x[0], Segments::equal(y[0].dim(1), chunk), y[0]);
  });
  const Tensor means = own->zeros({2, 256, kSigregPoints}, DType::f64), loss = own->zeros({}, DType::f64),
               one = own->zeros({}, DType::f64);
  *one.ptr<double>() = 1;
  add("sigreg", {{N / chunk, 256}}, {{N / chunk, 256}},
      [own, means, loss, one](const Ctx& c, const Tensors& x, const Tensors& y) {
        sigreg_forward(c, x[0], means, loss);
        sigreg_backward(c, x[0], means, 1, one, y[0]);
      });
  return cases;
}

}  // namespace bg::bench
