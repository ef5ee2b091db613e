// Every operation of a training step of byte260-jepa (D 512, H 8, G 4, d 64, F 1024, V 260), each as the model calls
// it; on the CPU a few more.
#include "bench/ops.h"

#include <algorithm>

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/chunk_shift.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/gemm_library.h"
#include "kernels/latent_loss.h"
#include "kernels/qk_norm_rope.h"
#include "kernels/residual.h"
#include "kernels/rms_norm.h"
#include "kernels/segment.h"
#include "kernels/smear.h"
#include "kernels/softmax_xent.h"
#include "kernels/update.h"
#include "kernels/xsa.h"
#include "optim/newton_schulz.h"

namespace bg::bench {
namespace {

constexpr int64_t D = 512, F = 1024, H = 8, G = 4, d = 64, V = 260, kRotary = 16, kChunk = 8;
constexpr int64_t L = 256, kHidden = 256, kDirections = 256, kBuckets = 4096, kBigram = 32;
constexpr double kEps = 1e-7;

using Kind = Operand::Kind;
Operand act(Shape s, double passes = 1) {
  return {.kind = Kind::act, .shape = s, .passes = passes};
}
Operand full(Shape s, double passes = 1) {
  return {.kind = Kind::full, .shape = s, .passes = passes};
}
Operand f64(Shape s, double passes = 1) {
  return {.kind = Kind::f64, .shape = s, .passes = passes};
}
Operand one() {
  return {.kind = Kind::one, .shape = {}};
}
Operand ids(Shape s, int64_t below) {
  return {.kind = Kind::ids, .shape = s, .below = below};
}
constexpr double kUnread = 0;                                                        // only `prepare` reads it
constexpr double kValues = static_cast<double>(G) / static_cast<double>(H + 2 * G);  // of a packed row
constexpr double kAdded = 2;                                                         // read and written

class Table {
 public:
  Table(int64_t B, int64_t T, bool checked) : B_(B), T_(T), N_(B * T), checked_(checked) {}

  std::vector<TimedOp> rows(Device device) {
    linear("qkv, fc", D, (H + 2 * G) * d, false);
    linear("attention out", H * d, D, true);
    linear("mlp out", F, D, true);
    head();
    linear("bigram", kBigram, D, false);
    for (int64_t window : {int64_t{0}, int64_t{512}}) attention(B_, T_, window);
    input();
    block();
    jepa();
    if (device == Device::cpu) {
      libraries();
      if (T_ >= 1024)
        for (int64_t window : {int64_t{0}, int64_t{512}}) attention(1, 4096, window);
      for (const Shape& s : {Shape{512, 512}, {256, 512}, {1024, 512}, {512, 1024}}) newton_schulz_of(s);
      adam();
    }
    return std::move(ops_);
  }

 private:
  TimedOp& add(const char* group, std::string what, std::vector<Operand> in, std::vector<Operand> out, Body body,
               double flops = 0, double tolerance_bf16 = 1e-2, Body prepare = {}) {
    ops_.push_back({group, std::move(what), std::move(in), std::move(out), std::move(body), std::move(prepare), flops,
                    tolerance_bf16, flops > 0 ? 1e-5 : 2e-5, words("B", B_, "T", T_)});
    return ops_.back();
  }
  void elementwise(std::string what, std::vector<Operand> in, std::vector<Operand> out, Body body, Body prepare = {}) {
    add("elementwise", std::move(what), std::move(in), std::move(out), std::move(body), 0, 1e-2, std::move(prepare));
  }

  // y = x w^T (+ add), its gradients. Outputs that join a stream have their weight's gradient set, not added.
  void linear(const std::string& name, int64_t I, int64_t O, bool joins) {
    const double flops = 2.0 * static_cast<double>(N_ * I * O);
    const std::string what = words(name, I, "->", O);
    if (joins)
      add(
          "gemm", what + " forward, added", {act({N_, I}), act({O, I}), act({N_, O})}, {act({N_, O})},
          [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_forward_add(c, x[0], x[1], x[2], y[0]); },
          flops);
    else
      add(
          "gemm", what + " forward", {act({N_, I}), act({O, I})}, {act({N_, O})},
          [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_forward(c, x[0], x[1], y[0]); }, flops);
    add(
        "gemm", what + " dx", {act({N_, O}), act({O, I})}, {act({N_, I})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_backward_input(c, x[0], x[1], y[0]); }, flops);
    const double beta = joins ? 0 : 1;
    add(
        "gemm", what + " dw", {act({N_, I}), act({N_, O})}, {full({O, I}, joins ? 1 : kAdded)},
        [beta](const Ctx& c, const Tensors& x, const Tensors& y) { linear_backward_weight(c, x[0], x[1], y[0], beta); },
        flops, 1e-3);
  }

  void head() {
    const double flops = 2.0 * static_cast<double>(N_ * D * V);
    const std::string what = words("head", D, "->", V);
    add(
        "gemm", what + " forward", {act({N_, D}), act({V, D})}, {full({N_, V})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_forward(c, x[0], x[1], y[0]); }, flops, 1e-3);
    add(
        "gemm", what + " dx", {act({N_, V}), act({V, D})}, {act({N_, D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_backward_input(c, x[0], x[1], y[0]); }, flops);
    add(
        "gemm", what + " dw", {act({N_, D}), act({N_, V})}, {full({V, D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { linear_backward_weight(c, x[0], x[1], y[0]); }, flops,
        1e-3);
  }

  // Normed queries and keys, and values inside packed rows, as a layer has them. Long rows are checked with one group
  // of heads: float64 goes by plain loops.
  void attention(int64_t B, int64_t T, int64_t W) {
    const int64_t groups = checked_ && T >= 1024 ? 1 : G, heads = groups * (H / G);
    const double n = static_cast<double>(T), w = static_cast<double>(W);
    const double pairs = static_cast<double>(B * heads) * (W > 0 && W < T ? n * w - w * (w - 1) / 2 : n * (n + 1) / 2);
    const double flops = 4 * pairs * static_cast<double>(d);
    const Shape packed{B, T, (heads + 2 * groups) * d}, q{B, T, heads, d}, k{B, T, groups, d}, lse{B, heads, T};
    const std::string name = W > 0 ? words("causal, window", W) : std::string("causal");
    const std::string at = B == B_ && T == T_ ? "" : words(", B", B, "T", T), size = words("B", B, "T", T, "H", heads);
    const auto values = [heads, groups](Tensor t) {
      return t.slice(2, (heads + groups) * d, (heads + 2 * groups) * d).split_last(d);
    };
    const std::vector<Operand> in{full({heads}), full({T, kRotary}, kUnread),          act(packed, kValues), act(q),
                                  act(k),        full({B, T, heads + groups}, kUnread)};
    const Body norm = [](const Ctx& c, const Tensors& x, const Tensors&) {
      rope_table(c, 10000, 4096, x[1]);
      qk_norm_rope_forward(c, x[2], x[0], x[1], kEps, x[3], x[4], x[5]);
    };
    add(
        "attention", name + " forward" + at, in, {act(q), full(lse)},
        [values, W](const Ctx& c, const Tensors& x, const Tensors& y) {
          attention_forward(c, x[3], x[4], values(x[2]), W, Tensor(), y[0], y[1], x[0]);
        },
        flops, 1e-2, norm)
        .size = size;
    std::vector<Operand> more = in;
    more.insert(more.end(), {act(q), full(lse), act(q)});  // y, lse, dy
    const Operand scratch{
        .kind = Kind::bytes,
        .shape = {},
        .size_bytes = [=](const Ctx& c) { return attention_scratch_bytes(c.device, c.dtype, B, T, heads, d); },
        .passes = kUnread};
    add(
        "attention", name + " backward" + at, more, {act(q), act(k), act(packed, kValues), scratch},
        [values, W](const Ctx& c, const Tensors& x, const Tensors& y) {
          attention_backward(c, x[3], x[4], values(x[2]), W, Tensor(), x[6], x[7], x[8], y[0], y[1], values(y[2]),
                             y[3]);
        },
        2.5 * flops, 2e-2,
        [norm, values, W](const Ctx& c, const Tensors& x, const Tensors& y) {
          norm(c, x, y);
          attention_forward(c, x[3], x[4], values(x[2]), W, Tensor(), x[6], x[7], x[0]);
        })
        .size = size;
  }

  void input() {
    const Shape rows{N_, D}, rows3{B_, T_, D};
    elementwise("embedding forward", {ids({N_}, V), full({V, D})}, {act(rows)},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { embedding_forward(c, x[0], x[1], y[0]); });
    elementwise("embedding backward", {ids({N_}, V), act(rows)}, {full({V, D})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { embedding_backward(c, x[0], x[1], y[0]); });
    elementwise("bigram table backward", {ids({N_}, kBuckets), act({N_, kBigram})}, {full({kBuckets, kBigram})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { embedding_backward(c, x[0], x[1], y[0]); });
    elementwise(
        "scalar_add backward", {act(rows), full({}), act(rows)}, {act(rows), full({})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { scalar_add_backward(c, x[0], x[1], x[2], y[0], y[1]); });
    elementwise("smear forward", {act(rows3), full({D})}, {act(rows3)},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { smear_forward(c, x[0], x[1], y[0]); });
    elementwise(
        "smear backward", {act(rows3), full({D}), act(rows3)}, {act(rows3), full({D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { smear_backward(c, x[0], x[1], x[2], y[0], y[1]); });
    elementwise(
        "softcap", {full({N_, V}, kUnread)}, {full({N_, V}, kAdded)},
        [](const Ctx& c, const Tensors&, const Tensors& y) { softcap(c, 30, y[0]); },
        [](const Ctx& c, const Tensors& x, const Tensors& y) { copy_tensor(c, x[0], y[0]); });
    elementwise(
        "softmax_xent forward", {full({N_, V}), ids({N_}, V)}, {f64({N_}), full({N_})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { softmax_xent_forward(c, x[0], x[1], y[0], y[1]); });
    elementwise(
        "softmax_xent backward", {full({N_, V}), ids({N_}, V), f64({N_}, kUnread), full({N_})}, {act({N_, V})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          softmax_xent_backward(c, x[0], x[1], x[3], 30, 1e-3, y[0]);
        },
        [](const Ctx& c, const Tensors& x, const Tensors&) { softmax_xent_forward(c, x[0], x[1], x[2], x[3]); });
  }

  void block() {
    const Shape rows{N_, D}, packed{B_, T_, (H + 2 * G) * d}, q{B_, T_, H, d}, k{B_, T_, G, d};
    const Body norm = [](const Ctx& c, const Tensors& x, const Tensors&) {
      rms_norm_forward(c, x[0], 0.5, kEps, x[1], x[2]);
    };
    elementwise(
        "rms_norm forward", {act(rows)}, {act(rows), full({N_})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { rms_norm_forward(c, x[0], 1, kEps, y[0], y[1]); });
    elementwise(
        "rms_norm backward, added", {act(rows, kUnread), act(rows), full({N_}), act(rows)}, {act(rows, kAdded)},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          rms_norm_backward(c, x[1], x[2], 0.5, x[3], y[0], Write::add);
        },
        norm);
    elementwise("mix_norm forward", {act(rows), act(rows), full({2, D})}, {act(rows), act(rows), full({N_})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) {
                  mix_norm_forward(c, x[0], x[1], x[2], 0.5, kEps, y[0], y[1], y[2]);
                });
    elementwise(
        "mix_norm backward", {act(rows), act(rows), full({N_}), act(rows), full({2, D}), act(rows)},
        {act(rows, kAdded), act(rows, kAdded), full({2, D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          mix_norm_backward(c, x[0], x[3], x[4], x[1], x[2], 0.5, x[5], y[0], y[1], y[2]);
        },
        norm);
    elementwise(
        "skip forward", {act(rows), act(rows), full({D})}, {act(rows)},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { scaled_add_forward(c, x[0], x[1], x[2], y[0]); });
    elementwise(
        "skip backward", {act(rows), full({D}), act(rows)}, {act(rows), full({D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { scaled_add_backward(c, x[0], x[1], x[2], y[0], y[1]); });
    elementwise("gradients of streams, added", {act(rows)}, {act(rows, kAdded)},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { accumulate(c, x[0], y[0]); });
    elementwise(
        "qk_norm_rope forward", {act(packed, 1 - kValues), full({H}), full({T_, kRotary})},
        {act(q), act(k), full({B_, T_, H + G})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          qk_norm_rope_forward(c, x[0], x[1], x[2], kEps, y[0], y[1], y[2]);
        },
        [](const Ctx& c, const Tensors& x, const Tensors&) { rope_table(c, 10000, 4096, x[2]); });
    elementwise(
        "qk_norm_rope backward",
        {act(packed, 1 - kValues), full({H}), full({T_, kRotary}), act(q, kUnread), act(k, kUnread),
         full({B_, T_, H + G}), act(q), act(k)},
        {act(packed, 1 - kValues), full({H})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          qk_norm_rope_backward(c, x[0], x[1], x[2], x[5], x[6], x[7], y[0], y[1]);
        },
        [](const Ctx& c, const Tensors& x, const Tensors&) {
          rope_table(c, 10000, 4096, x[2]);
          qk_norm_rope_forward(c, x[0], x[1], x[2], kEps, x[3], x[4], x[5]);
        });
    const auto values = [](Tensor t) { return t.slice(2, (H + G) * d, (H + 2 * G) * d).split_last(d); };
    elementwise(
        "xsa forward", {act(q), act(packed, kValues)}, {act(q)},
        [values](const Ctx& c, const Tensors& x, const Tensors& y) { xsa_forward(c, x[0], values(x[1]), y[0]); });
    elementwise("xsa backward input", {act(packed, kValues), act(q)}, {act(q)},
                [values](const Ctx& c, const Tensors& x, const Tensors& y) {
                  xsa_backward_input(c, values(x[0]), x[1], y[0]);
                });
    elementwise("xsa backward value", {act(q), act(packed, kValues), act(q)}, {act(packed, kAdded * kValues)},
                [values](const Ctx& c, const Tensors& x, const Tensors& y) {
                  xsa_backward_value(c, x[0], values(x[1]), x[2], values(y[0]));
                });
    const Activation mlp = Activation::parse("leaky_relu2", 0.5);
    elementwise("leaky_relu2 forward", {act({N_, F})}, {act({N_, F})},
                [mlp](const Ctx& c, const Tensors& x, const Tensors& y) { activation_forward(c, mlp, x[0], y[0]); });
    elementwise("leaky_relu2 backward, made again", {act({N_, F}), act({N_, F})}, {act({N_, F}), act({N_, F})},
                [mlp](const Ctx& c, const Tensors& x, const Tensors& y) {
                  activation_backward(c, mlp, x[0], x[1], y[0], y[1]);
                });
    elementwise("scale_rows forward", {full({D, F}), full({D})}, {act({D, F})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { scale_rows_forward(c, x[0], x[1], y[0]); });
    elementwise(
        "scale_rows backward", {full({D, F}), full({D}), full({D, F})}, {full({D, F}), full({D})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { scale_rows_backward(c, x[0], x[1], x[2], y[0], y[1]); });
  }

  void jepa() {
    const int64_t C = T_ / kChunk, R = B_ * C;
    const Segments chunks_of = Segments::equal(T_, kChunk);
    const Shape rows3{B_, T_, D}, chunks{B_, C, D}, latents{B_, C, L}, flat{R, L}, means{2, kDirections, kSigregPoints};
    elementwise("segment_mean", {act(rows3)}, {act(chunks)},
                [chunks_of](const Ctx& c, const Tensors& x, const Tensors& y) {
                  segment_mean_forward(c, x[0], chunks_of, y[0]);
                });
    elementwise("segment_add forward", {act(chunks)}, {act(rows3, kAdded)},
                [chunks_of](const Ctx& c, const Tensors& x, const Tensors& y) {
                  segment_add_forward(c, x[0], chunks_of, y[0]);
                });
    elementwise("segment_add backward", {act(rows3)}, {act(chunks)},
                [chunks_of](const Ctx& c, const Tensors& x, const Tensors& y) {
                  segment_add_backward(c, x[0], chunks_of, y[0]);
                });
    elementwise("chunk_shift backward", {act(latents)}, {act(latents, kAdded), full({L})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { chunk_shift_backward(c, x[0], y[0], y[1]); });
    const Activation silu;
    elementwise("silu backward", {act({R, kHidden}), act({R, kHidden})}, {act({R, kHidden})},
                [silu](const Ctx& c, const Tensors& x, const Tensors& y) {
                  activation_backward(c, silu, x[0], x[1], y[0], Tensor());
                });
    elementwise("mse forward", {act(flat), act(flat)}, {f64({})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { mse_forward(c, x[0], x[1], y[0]); });
    elementwise("mse backward", {act(flat), act(flat), one()}, {act(flat)},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { mse_backward(c, x[0], x[1], 1, x[2], y[0]); });
    elementwise("standardise forward", {act(flat)}, {act(flat), full({L})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { standardise_forward(c, x[0], y[0], y[1]); });
    elementwise(
        "standardise backward", {act(flat, kUnread), act(flat), full({L}), act(flat)}, {act(flat)},
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          standardise_backward(c, x[1], x[2], x[3], y[0], Write::set);
        },
        [](const Ctx& c, const Tensors& x, const Tensors&) { standardise_forward(c, x[0], x[1], x[2]); });
    elementwise("sigreg forward", {act({R, kDirections})}, {f64(means), f64({})},
                [](const Ctx& c, const Tensors& x, const Tensors& y) { sigreg_forward(c, x[0], y[0], y[1]); });
    elementwise(
        "sigreg backward", {act({R, kDirections}), f64(means), f64({}, kUnread), one()}, {act({R, kDirections})},
        [](const Ctx& c, const Tensors& x, const Tensors& y) { sigreg_backward(c, x[0], x[1], 1, x[3], y[0]); },
        [](const Ctx& c, const Tensors& x, const Tensors&) { sigreg_forward(c, x[0], x[1], x[2]); });
  }

  // Products of one size by each library.
  void libraries() {
    struct Size {
      int64_t M, N, K;
      Op a, b;
      const char* what;
    };
    constexpr auto plain = Op::none, turned = Op::transpose;
    for (const GemmLibraryInfo& info : gemm_libraries()) {
      if (!info.available) continue;
      for (const Size& s :
           {Size{4096, 512, 512, plain, turned, "linear"}, Size{2048, 512, 512, plain, turned, "linear"},
            Size{2048, 1024, 512, plain, turned, "linear"}, Size{2048, 512, 512, plain, plain, "dx"},
            Size{512, 1024, 2048, turned, plain, "dw"}, Size{256, 256, 64, plain, turned, "linear"},
            Size{512, 512, 512, plain, plain, "square"}}) {
        const std::string size = std::to_string(s.M) + "x" + std::to_string(s.N) + "x" + std::to_string(s.K);
        add(
            "gemm", words(info.name, size, s.what),
            {act(s.a == turned ? Shape{s.K, s.M} : Shape{s.M, s.K}),
             act(s.b == turned ? Shape{s.N, s.K} : Shape{s.K, s.N})},
            {act({s.M, s.N})},
            [s, library = info.library](const Ctx& c, const Tensors& x, const Tensors& y) {
              Ctx with = c;
              if (c.dtype == DType::f32) with.gemm_library = library;
              gemm(with, 1, x[0], s.a, x[1], s.b, 0, y[0]);
            },
            2.0 * static_cast<double>(s.M * s.N * s.K))
            .size = size;
      }
    }
  }

  void newton_schulz_of(Shape s) {
    // A and A^2 are symmetric: half of their products; then one full product.
    const double n = static_cast<double>(std::min(s[0], s[1])), m = static_cast<double>(std::max(s[0], s[1]));
    TimedOp& op = add(
        "newton_schulz", words(s[0], "x", s[1]), {full(s), full({newton_schulz_scratch(s[0], s[1])}, kUnread)},
        {full(s)}, [](const Ctx& c, const Tensors& x, const Tensors& y) { newton_schulz(c, x[0], 5, x[1], y[0]); },
        5 * (n * n * m + n * n * n + 2 * n * n * m));
    op.tolerance_cpu = 1e-3;  // 5 steps multiply a rounding error by about 3.4^5
    op.size = op.what;
  }

  void adam() {
    const int64_t n = 4 << 20;
    AdamStep step;
    step.lr = 1e-3;
    step.beta1 = 0.9;
    step.beta2 = 0.95;
    step.eps = 1e-8;
    step.correction1 = 0.1;
    step.correction2 = 0.05;
    step.average_weight = 0.003;
    TimedOp& op = add(
        "adam", words(n, "parameters and their average"), {full({n}, kUnread), full({n})},
        {full({n}, kAdded), full({n}, kAdded), full({n}, kAdded), full({n}, kAdded)},
        [step](const Ctx& c, const Tensors& x, const Tensors& y) { adam_step(c, step, y[0], x[1], y[1], y[2], y[3]); },
        0, 1e-2,
        [](const Ctx& c, const Tensors& x, const Tensors& y) {
          copy_tensor(c, x[0], y[0]);
          copy_tensor(c, x[0], y[3]);
        });
    op.tolerance_cpu = 1e-6;
    op.size = op.what;
  }

  const int64_t B_, T_, N_;
  const bool checked_;
  std::vector<TimedOp> ops_;
};

}  // namespace

std::vector<TimedOp> ops(Device device, int64_t B, int64_t T, bool checked) {
  return Table(B, T, checked).rows(device);
}

}  // namespace bg::bench
