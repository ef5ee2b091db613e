#include "testing/layer_case.h"

#include <gmock/gmock.h>

#include <cmath>
#include <memory>

#include "kernels/qk_norm_rope.h"
#include "model/layer.h"
#include "tensor/transfer.h"
#include "testing/gradcheck.h"
#include "testing/tensors.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

StackSpec small_stack() {
  StackSpec s;
  s.layers = 3;
  s.D = 12, s.H = 2, s.G = 1, s.d = 6, s.F = 10;
  s.pattern = {{"attention", "mlp"}};
  s.rope_dims = 4;
  s.norm_eps = 1e-6;
  s.q_gain_init = 1.3;
  s.activation = Activation::parse("leaky_relu2", 0.5);
  return s;
}

std::string name_of(const LayerCase& c) {
  return words("D", c.stack.D, "H", c.stack.H, "G", c.stack.G, "d", c.stack.d, "F", c.stack.F, "block", c.block,
               "window", c.stack.window_of(c.block), "xsa", c.stack.xsa(c.block), "B", c.B, "T", c.T, "seen_together",
               c.seen_together);
}

// A layer with random parameters, the plan of one pass, and inputs whose every element counts.
class Bench {
 public:
  Bench(const LayerCase& c, const char* name, const Ctx& ctx, int64_t B, int64_t T, int visit = 0)
      : ctx_(ctx),
        stack_(c.stack),
        seen_together_(c.seen_together),
        first_(make_layer(name, stack_, {c.block, "blocks.0."})) {
    first_->declare(params_);
    params_.param(scale_, "scale", {stack_.D}, Init::ones(), Group::scalar, Codec::other);
    params_.allocate(ctx, 0);
    for (const ParamSpec& s : params_.specs()) {
      const Random random(23, s.name);
      std::vector<double> values = download(ctx, ParamTable::view(s, params_.values()));
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<float>((s.shape.rank() < 2 ? values[i] : 0) + 0.3 * random.normal(i));
      upload(ctx, values, ParamTable::view(s, params_.values()));
    }
    params_.refresh_operands(ctx);
    if (visit > 0) again_ = first_->again();
    grid_.B = B, grid_.T = T;
  }
  Layer& layer() { return again_ ? *again_ : *first_; }
  ParamTable& params() { return params_; }
  const Param& scale() const { return scale_; }
  Grid& grid() { return grid_; }
  const Ctx& ctx() const { return ctx_; }

  // Memory of the plan's purpose, of the layer and of what surrounds it.
  void plan(Purpose purpose) {
    plan_ = std::make_unique<Plan>(ctx_, purpose);
    const Shape rows{grid_.B, grid_.T, stack_.D};
    plan_->keep(grid_.rope, "rope", {grid_.T, stack_.rope_dims}, ctx_.full_dtype());
    if (seen_together_ > 0) plan_->keep(grid_.first, "first", {grid_.B, grid_.T}, DType::i32);
    if (seen_together_ > 0) plan_->keep(grid_.last, "last", {grid_.B, grid_.T}, DType::i32);
    plan_->keep(u_, "u", rows);
    plan_->keep(x_, "x", rows);
    plan_->keep(y_, "y", rows);
    plan_->keep(dy_, "dy", rows);
    plan_->keep(du_, "du", rows);
    layer().reserve(*plan_, {grid_.B, grid_.T});
    plan_->commit();
    rope_table(ctx_, 10000, 1 << 20, grid_.rope);
    if (seen_together_ > 0) {
      std::vector<int32_t> first, last;
      for (int64_t i = 0; i < grid_.B * grid_.T; ++i) {
        const int64_t run = i % grid_.T / seen_together_;
        first.push_back(static_cast<int32_t>(run * seen_together_));
        last.push_back(static_cast<int32_t>(std::min((run + 1) * seen_together_, grid_.T) - 1));
      }
      copy_bytes(ctx_, grid_.first.data(), ctx_.device, first.data(), Device::cpu, grid_.first.size_bytes());
      copy_bytes(ctx_, grid_.last.data(), ctx_.device, last.data(), Device::cpu, grid_.last.size_bytes());
    }
    put(u_, "u");
    put(x_, "x");
    put(dy_, "dy");
  }
  // Rows b0.. of what all rows of a larger batch hold, so that a row is the same in every batch.
  void put(Tensor t, const char* name) {
    std::vector<double> values(static_cast<size_t>(t.numel()));
    const Random random(29, name);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = float_from_bf16(bf16_from_float(static_cast<float>(random.normal(i + static_cast<size_t>(offset_)))));
    upload(ctx_, values, t);
  }
  void set_offset(int64_t elements) { offset_ = elements; }
  void forward() { layer().forward(ctx_, u_, grid_, scale_, x_, y_); }
  void backward(Write write) {
    fill_zero_of_gradients();
    layer().backward(ctx_, u_, grid_, scale_, dy_, du_, write);
  }
  void fill_zero_of_gradients() {
    const Tensor g = params_.grads();
    clear_bytes(ctx_, ctx_.device, g.data(), g.size_bytes());
  }
  // sum dy * y, whose gradients backward() gives.
  double value() {
    forward();
    const std::vector<double> y = download(ctx_, y_), dy = download(ctx_, dy_);
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  }
  Tensor u_, x_, y_, dy_, du_;

 private:
  Ctx ctx_;
  StackSpec stack_;
  int64_t seen_together_;
  std::unique_ptr<Layer> first_, again_;
  ParamTable params_;
  Param scale_;
  Grid grid_;
  std::unique_ptr<Plan> plan_;
  int64_t offset_ = 0;
};

std::string bits(const Ctx& ctx, Tensor t) {
  std::string out(t.size_bytes(), '\0');
  copy_bytes(ctx, out.data(), Device::cpu, t.data(), t.device(), t.size_bytes());
  return out;
}

double relative(const std::vector<double>& got, const std::vector<double>& want) {
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) off += (got[i] - want[i]) * (got[i] - want[i]), size += want[i] * want[i];
  return std::sqrt(off / (size + 1e-30));
}

}  // namespace

std::vector<LayerCase> layer_cases() {
  std::vector<LayerCase> cases;
  cases.push_back({small_stack()});
  cases.push_back({small_stack(), 2, 3, 5});
  cases.back().stack.xsa_last = 1;
  cases.push_back({small_stack(), 1, 1, 11});
  cases.back().stack.windows = {0, 3};
  cases.push_back({small_stack(), 0, 2, 6});
  cases.back().stack.D = 10, cases.back().stack.H = 4, cases.back().stack.G = 2, cases.back().stack.d = 4;
  cases.back().stack.activation = Activation::parse("gelu", 0);
  cases.back().stack.xsa_last = 3;
  cases.push_back({small_stack(), 0, 1, 1});
  cases.push_back({small_stack(), 2, 2, 8});
  cases.back().stack.xsa_last = 1;
  cases.back().seen_together = 3;
  return cases;
}

void prove_layer_gradients(const char* name) {
  for (const LayerCase& c : layer_cases()) {
    SCOPED_TRACE(name_of(c));
    Bench bench(c, name, context(DType::f64, 1), c.B, c.T);
    bench.plan(Purpose::train);
    bench.forward();
    bench.backward(Write::set);
    const auto check = [&](Tensor values, const std::vector<double>& gradient, const std::string& what) {
      double largest = 0;
      for (double g : gradient) largest = std::max(largest, std::abs(g));
      EXPECT_GT(largest, c.T > 1 ? 0 : -1) << what << " has no gradient";
      double* const p = values.ptr<double>();
      for (int64_t i : some_of(values.numel(), 9)) {
        const double x = p[i], allowed = tolerance::kModelDifference * largest + tolerance::kModelFloor;
        double expected = 0;
        for (double h : {1e-4, 1e-6}) {  // a smaller step where the larger one straddles the kink of an activation
          expected = difference(x, h, [&](double at) {
            p[i] = at;
            return bench.value();
          });
          p[i] = x;
          if (std::abs(expected - gradient[static_cast<size_t>(i)]) <= allowed) break;
        }
        EXPECT_NEAR(gradient[static_cast<size_t>(i)], expected, allowed) << what << "[" << i << "]";
      }
    };
    const std::vector<double> du = download(bench.ctx(), bench.du_);
    std::vector<std::vector<double>> gradients;
    for (const ParamSpec& s : bench.params().specs())
      gradients.push_back(download(bench.ctx(), ParamTable::view(s, bench.params().grads())));
    check(bench.u_, du, "u");
    for (size_t i = 0; i < gradients.size(); ++i) {
      const ParamSpec& s = bench.params().specs()[i];
      check(ParamTable::view(s, bench.params().values()), gradients[i], s.name);
    }
  }
}

void prove_layer_added(const char* name) {
  for (const LayerCase& c : layer_cases()) {
    SCOPED_TRACE(name_of(c));
    Bench bench(c, name, context(DType::f64, 1), c.B, c.T);
    bench.plan(Purpose::train);
    bench.forward();
    bench.backward(Write::set);
    const std::vector<double> once = download(bench.ctx(), bench.du_);
    bench.forward();
    bench.put(bench.du_, "du");
    const std::vector<double> before = download(bench.ctx(), bench.du_);
    bench.backward(Write::add);
    const std::vector<double> sum = download(bench.ctx(), bench.du_);
    for (size_t i = 0; i < sum.size(); ++i)
      EXPECT_NEAR(sum[i], before[i] + once[i], tolerance::formula(DType::f64) * 10);
  }
}

void prove_layer_bits(const char* name) {
  for (const LayerCase& c : layer_cases())
    for (DType dtype : {DType::f32, DType::f64}) {
      SCOPED_TRACE(name_of(c));
      Bench one(c, name, context(dtype, 1), c.B, c.T), four(c, name, context(dtype, 4), c.B, c.T),
          later(c, name, context(dtype, 2), c.B, c.T, 1);
      for (Bench* bench : {&one, &four, &later}) {
        bench->plan(Purpose::train);
        bench->forward();
        bench->backward(Write::set);
      }
      const Ctx& ctx = one.ctx();
      for (Bench* bench : {&four, &later}) {
        EXPECT_TRUE(bits(ctx, bench->y_) == bits(ctx, one.y_));
        EXPECT_TRUE(bits(ctx, bench->du_) == bits(ctx, one.du_));
        EXPECT_TRUE(bits(ctx, bench->params().grads()) == bits(ctx, one.params().grads()));
      }
      for (int64_t b = 0; b < c.B; ++b) {
        Bench alone(c, name, context(dtype, 1), 1, c.T);
        alone.set_offset(b * c.T * c.stack.D);
        alone.plan(Purpose::train);
        alone.forward();
        alone.backward(Write::set);
        EXPECT_TRUE(bits(ctx, alone.y_) == bits(ctx, one.y_.slice(0, b, b + 1))) << "row " << b;
        EXPECT_TRUE(bits(ctx, alone.du_) == bits(ctx, one.du_.slice(0, b, b + 1))) << "row " << b;
      }
    }
}

void prove_layer_decoding(const char* name) {
  for (const LayerCase& c : layer_cases()) {
    SCOPED_TRACE(name_of(c));
    if (c.T < 3 || c.seen_together > 0) continue;  // nothing follows the prompt, or what follows is seen before it
    const Ctx ctx = context(DType::f64, 1);
    Bench bench(c, name, ctx, 1, c.T);
    bench.plan(Purpose::infer);
    const std::vector<double> u = download(ctx, bench.u_), x = download(ctx, bench.x_);
    // Caches and the memory of a step beside that of the pass which fills them.
    Plan steps(ctx, Purpose::decode);
    Tensor su, sx, sy, numbers, rope;
    const int64_t D = c.stack.D, start = 2;
    steps.keep(su, "u", {1, 1, D});
    steps.keep(sx, "x", {1, 1, D});
    steps.keep(sy, "y", {1, 1, D});
    steps.keep(rope, "rope", {1, c.stack.rope_dims}, ctx.full_dtype());
    steps.keep(numbers, "numbers", {4}, DType::i32);
    bench.layer().reserve(steps, {1, 1, c.T});
    steps.commit();
    int32_t* const n = numbers.ptr<int32_t>();
    Grid pass = bench.grid();
    bench.plan(Purpose::infer);  // the pass's memory again; the caches stay the steps'
    bench.forward();
    const std::vector<double> want = download(ctx, bench.y_);
    pass = bench.grid();
    n[0] = n[1] = n[2] = n[3] = 0;
    pass.decoding.kind = Decoding::Kind::fill;
    pass.decoding.length = start;
    pass.decoding.at = numbers.slice(0, 0, 1);
    bench.layer().forward(ctx, bench.u_, pass, bench.scale(), bench.x_, bench.y_);
    const Tensor angles = pass.rope;
    for (int64_t t = start; t < c.T; ++t) {
      steps.activate();
      upload(ctx, std::vector<double>(u.begin() + t * D, u.begin() + (t + 1) * D), su);
      upload(ctx, std::vector<double>(x.begin() + t * D, x.begin() + (t + 1) * D), sx);
      upload(ctx, download(ctx, angles.slice(0, t, t + 1)), rope);
      n[1] = static_cast<int32_t>(t);
      Grid step;
      step.B = step.T = 1;
      step.rope = rope;
      step.decoding.kind = Decoding::Kind::step;
      step.decoding.at = numbers.slice(0, 1, 2);
      step.decoding.first = numbers.slice(0, 2, 3);
      step.decoding.limit = numbers.slice(0, 3, 4);
      step.decoding.prepared = t > start;
      bench.layer().forward(ctx, su, step, bench.scale(), sx, sy);
      const std::vector<double> got = download(ctx, sy);
      for (int64_t i = 0; i < D; ++i)
        EXPECT_NEAR(got[static_cast<size_t>(i)], want[static_cast<size_t>(t * D + i)], tolerance::kReordered)
            << "position " << t;
    }
  }
}

void prove_layer_on_gpu(const char* name) {
  BG_NEEDS_GPU();
  for (const LayerCase& c : layer_cases())
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name_of(c));
      Bench cpu(c, name, context(DType::f64, 2), c.B, c.T), gpu(c, name, cuda_context(dtype), c.B, c.T);
      for (Bench* bench : {&cpu, &gpu}) {
        bench->plan(Purpose::train);
        bench->forward();
        bench->backward(Write::set);
      }
      const double allowed = dtype == DType::f32 ? tolerance::kModelFloat32 : tolerance::kDecodeBf16;
      EXPECT_LE(relative(download(gpu.ctx(), gpu.y_), download(cpu.ctx(), cpu.y_)), allowed);
      EXPECT_LE(relative(download(gpu.ctx(), gpu.du_), download(cpu.ctx(), cpu.du_)), allowed);
      EXPECT_LE(relative(download(gpu.ctx(), gpu.params().grads()), download(cpu.ctx(), cpu.params().grads())),
                allowed);
    }
}

}  // namespace bg
