#include "testing/op_case.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "testing/gradcheck.h"
#include "testing/tolerance.h"

namespace bg {
namespace {

constexpr int64_t kElements = 20;  // differentiated per input

// The tensors behind an OpRun.
struct Memory {
  std::vector<Owned> in, out, dout, din;
  std::vector<Owned> din_before;  // on the CPU
  OpRun run;

  Memory(const OpCase& c, DType dtype, int threads = 2) : Memory(c, context(dtype, threads), DType::f32) {}
  Memory(const OpCase& c, const Ctx& ctx, DType rounded) {
    run.ctx = ctx;
    run.rounded = rounded;
    for (const OpInput& i : c.inputs) {
      const DType type = i.full ? ctx.full_dtype() : ctx.dtype, round = i.full ? DType::f32 : rounded;
      in.push_back(Owned::normal(type, i.shape, c.name + i.name, i.scale, i.shift, round).to(ctx));
      din_before.push_back(Owned::normal(type, i.shape, c.name + i.name + "gradient before", 1, 0, round));
      if (i.gradient == Write::set) din_before.back().fill(kPoison);
      din.push_back(din_before.back().to(ctx));
    }
    for (size_t o = 0; o < c.outputs.size(); ++o) {
      const OpOutput& output = c.outputs[o];
      const DType type = output.kept == Kept::f64    ? DType::f64
                         : output.kept == Kept::full ? ctx.full_dtype()
                                                     : ctx.dtype;
      const DType round = output.kept == Kept::activation ? rounded : DType::f32;
      out.push_back(Owned(type, output.shape).to(ctx));
      dout.push_back(Owned::normal(type, output.shape, c.name + "dout" + std::to_string(o), 1, 0, round).to(ctx));
    }
    for (auto& t : in) run.in.push_back(t);
    for (auto& t : out) run.out.push_back(t);
    for (auto& t : dout) run.dout.push_back(t);
    for (auto& t : din) run.din.push_back(t);
  }
  void forward(const OpCase& c) {
    for (auto& t : out) {
      Owned poison(t.view().dtype(), t.view().shape());
      poison.fill(kPoison);
      copy_bytes(run.ctx, t.view().data(), t.view().device(), poison.view().data(), Device::cpu, t.view().size_bytes());
    }
    run.kept.clear();
    run.kept.reserve(16);
    run.given.clear();
    c.forward(run);
  }
  /// Gradients as they were, or without what added-to ones held.
  void reset_gradients(const OpCase& c, bool empty) {
    for (size_t k = 0; k < din.size(); ++k) {
      Owned before = din_before[k].host(run.ctx);
      if (empty && c.inputs[k].gradient == Write::add) before.fill(0);
      copy_bytes(run.ctx, din[k].view().data(), din[k].view().device(), before.view().data(), Device::cpu,
                 before.view().size_bytes());
    }
  }
  // sum of dout * out
  double value(const OpCase& c) {
    forward(c);
    double sum = 0;
    for (size_t o = 0; o < out.size(); ++o)
      for (int64_t i = 0; i < out[o].numel(); ++i) sum += dout[o].at(i) * out[o].at(i);
    return sum;
  }
  Lists inputs() const {
    Lists lists;
    for (const auto& t : in) lists.push_back(t.values());
    return lists;
  }
};

double largest(const std::vector<double>& values) {
  double out = 0;
  for (double v : values) out = std::max(out, std::abs(v));
  return out;
}

// What backward alone contributed: without what an added-to gradient held before.
std::vector<double> contributed(const Owned& after, const std::vector<double>& before, Write write) {
  std::vector<double> out = after.values();
  for (size_t i = 0; write == Write::add && i < out.size(); ++i) out[i] -= before[i];
  return out;
}

double relative_l2(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::isfinite(difference) ? std::sqrt(difference / (size + 1e-30)) : kPoison;
}

}  // namespace

void OpRun::convert(Tensor from, Tensor to) const {
  Owned x(from.dtype(), from.shape()), y(to.dtype(), to.shape());
  copy_bytes(ctx, x.view().data(), Device::cpu, from.data(), from.device(), from.size_bytes());
  for (int64_t i = 0; i < x.numel(); ++i) y.set(i, x.at(i));
  copy_bytes(ctx, to.data(), to.device(), y.view().data(), Device::cpu, to.size_bytes());
}

double OpRun::scale(int i) const {
  const Tensor from = dout[static_cast<size_t>(i)];
  Owned to(from.dtype(), {});
  copy_bytes(ctx, to.view().data(), Device::cpu, from.data(), from.device(), from.size_bytes());
  return to.at(0);
}

void prove_formula(const OpCase& c) {
  for (DType dtype : {DType::f64, DType::f32}) {
    SCOPED_TRACE(c.name + " " + name_of(dtype));
    Memory m(c, dtype);
    const Lists before = m.inputs(), expected = c.formula(before);
    m.forward(c);
    ASSERT_EQ(expected.size(), m.out.size());
    for (size_t o = 0; o < expected.size(); ++o) {
      ASSERT_EQ(static_cast<int64_t>(expected[o].size()), m.out[o].numel());
      const double allowed = tolerance::formula(dtype) * (largest(expected[o]) + 1e-3);
      for (int64_t i = 0; i < m.out[o].numel(); ++i)
        ASSERT_NEAR(m.out[o].at(i), expected[o][i], allowed) << "output " << o << " element " << i;
    }
    EXPECT_EQ(m.inputs(), before) << "forward changed an input";
  }
}

void prove_gradients(const OpCase& c) {
  SCOPED_TRACE(c.name);
  Memory m(c, DType::f64);
  const Lists before = [&] {
    Lists lists;
    for (auto& t : m.din) lists.push_back(t.values());
    return lists;
  }();
  m.forward(c);
  c.backward(m.run);
  for (size_t k = 0; k < m.in.size(); ++k) {
    const std::vector<double> gradient = contributed(m.din[k], before[k], c.inputs[k].gradient);
    ASSERT_TRUE(std::all_of(gradient.begin(), gradient.end(), [](double v) { return std::isfinite(v); }))
        << "backward left elements of d" << c.inputs[k].name << " unwritten";
    const double allowed = tolerance::kOpDifference * (1 + largest(gradient));
    for (int64_t i : some_of(m.in[k].numel(), kElements)) {
      const double x = m.in[k].at(i);
      const double expected = difference(x, c.step, [&](double at) {
        m.in[k].set(i, at);
        return m.value(c);
      });
      m.in[k].set(i, x);
      ASSERT_NEAR(gradient[i], expected, allowed) << "d" << c.inputs[k].name << "[" << i << "]";
    }
  }
}

void prove_writes(const OpCase& c) {
  SCOPED_TRACE(c.name);
  Memory m(c, DType::f64);
  Lists before, once;
  for (auto& t : m.din) before.push_back(t.values());
  m.forward(c);
  c.backward(m.run);
  for (auto& t : m.din) once.push_back(t.values());
  c.backward(m.run);
  for (size_t k = 0; k < m.in.size(); ++k)
    for (int64_t i = 0; i < m.din[k].numel(); ++i) {
      const double expected =
          c.inputs[k].gradient == Write::set ? once[k][i] : once[k][i] + (once[k][i] - before[k][i]);
      ASSERT_NEAR(m.din[k].at(i), expected, tolerance::formula(DType::f64) * (1 + std::abs(expected)))
          << "d" << c.inputs[k].name << "[" << i << "] after a second backward";
    }
}

void prove_threads(const OpCase& c) {
  for (DType dtype : {DType::f32, DType::f64}) {
    SCOPED_TRACE(c.name + " " + name_of(dtype));
    Memory m(c, dtype);
    std::vector<std::string> before, first;
    for (auto& t : m.din) before.push_back(t.bits());
    for (int threads : {1, 1, 2, 3, 5}) {
      m.run.ctx = context(dtype, threads);
      for (size_t k = 0; k < before.size(); ++k)
        std::memcpy(m.din[k].view().data(), before[k].data(), before[k].size());
      m.forward(c);
      c.backward(m.run);
      std::vector<std::string> bits;
      for (auto& t : m.out) bits.push_back(t.bits());
      for (auto& t : m.din) bits.push_back(t.bits());
      if (first.empty()) first = bits;
      ASSERT_TRUE(bits == first) << threads << " threads";
    }
  }
}

void prove_float32(const OpCase& c) {
  SCOPED_TRACE(c.name);
  Memory narrow(c, DType::f32), wide(c, DType::f64);
  for (Memory* m : {&narrow, &wide}) {
    for (size_t k = 0; k < m->din.size(); ++k)
      if (c.inputs[k].gradient == Write::add) m->din[k].fill(0);
    m->forward(c);
    c.backward(m->run);
  }
  for (size_t o = 0; o < wide.out.size(); ++o)
    EXPECT_LE(relative_l2(narrow.out[o].values(), wide.out[o].values()), tolerance::kOpFloat32) << "output " << o;
  for (size_t k = 0; k < wide.din.size(); ++k)
    EXPECT_LE(relative_l2(narrow.din[k].values(), wide.din[k].values()), tolerance::kOpFloat32)
        << "d" << c.inputs[k].name;
}

namespace {

// After forward and backward: outputs, then gradients, on the CPU.
std::vector<Owned> results(Memory& m, const OpCase& c, bool empty) {
  m.reset_gradients(c, empty);
  m.forward(c);
  c.backward(m.run);
  std::vector<Owned> out;
  for (auto& t : m.out) out.push_back(t.host(m.run.ctx));
  for (auto& t : m.din) out.push_back(t.host(m.run.ctx));
  for (auto& t : m.run.kept) (void)t.host(m.run.ctx);  // looks behind their ends
  return out;
}
std::string bits_of(const std::vector<Owned>& tensors) {
  std::string out;
  for (const Owned& t : tensors) out += t.bits();
  return out;
}

// Difference and size, both as L2 norms.
void expect_close(const std::vector<double>& got, const std::vector<double>& want, double allowed, bool small) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  size = std::sqrt(size) + (small ? tolerance::kCudaSmall * std::sqrt(static_cast<double>(want.size())) : 0);
  EXPECT_TRUE(std::sqrt(difference) <= allowed * size)  // false for NaN: not written
      << "difference " << std::sqrt(difference) << " of " << size << ", allowed are " << allowed * size;
}

}  // namespace

void prove_cuda(const OpCase& c, bool small) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    SCOPED_TRACE(c.name + " cuda " + name_of(dtype));
    const double allowed = dtype == DType::f32 ? tolerance::kCudaFloat32 : tolerance::kCudaBf16;
    try {
      Memory wide(c, context(DType::f64), dtype), gpu(c, cuda_context(dtype), dtype);
      std::vector<Owned> inputs;
      for (auto* list : {&gpu.in, &gpu.dout})
        for (auto& t : *list) inputs.push_back(t.host(gpu.run.ctx));
      for (bool empty : {true, false}) {
        const std::vector<Owned> want = results(wide, c, empty), got = results(gpu, c, empty);
        for (size_t i = 0; i < want.size(); ++i) {
          const size_t k = i - want.size() + c.inputs.size();
          SCOPED_TRACE(i < c.outputs.size() ? words("output", i)
                                            : words("gradient of", c.inputs[k].name, empty ? "" : "added up"));
          expect_close(got[i].values(), want[i].values(), allowed, small);
        }
        EXPECT_TRUE(bits_of(results(gpu, c, empty)) == bits_of(got)) << "other bits when repeated";
      }
      std::vector<Owned> after;
      for (auto* list : {&gpu.in, &gpu.dout})
        for (auto& t : *list) after.push_back(t.host(gpu.run.ctx));
      EXPECT_TRUE(bits_of(after) == bits_of(inputs)) << "an input changed";
    } catch (const std::exception& error) {
      FAIL() << error.what();
    }
  }
}

}  // namespace bg
