// Tensors that own their memory, and contexts, for tests.
#pragma once

#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/ctx.h"
#include "base/memory.h"
#include "base/random.h"
#include "tensor/tensor.h"

namespace bg {

/// A CPU context; pools of one size are shared by all tests.
inline Ctx context(DType dtype, int threads = 2) {
  static std::shared_ptr<ThreadPool> pools[9];
  auto& pool = pools[threads];
  if (!pool) pool = std::make_shared<ThreadPool>(threads);
  Ctx ctx;
  ctx.dtype = dtype;
  ctx.pool = pool;
  return ctx;
}

/// A context on the first GPU, shared by all tests; ask gpu_unusable() first.
inline const Ctx& cuda_context(DType dtype) {
  static const Ctx float32 = make_ctx(Device::cuda, DType::f32, 2), bfloat16 = make_ctx(Device::cuda, DType::bf16, 2);
  return dtype == DType::bf16 ? bfloat16 : float32;
}
/// Why no GPU can be used, "" when one can.
inline const std::string& gpu_unusable() {
  static const std::string why = gpu_info().unusable;
  return why;
}

/// At the start of a test that needs one.
#define BG_NEEDS_GPU() \
  if (!::bg::gpu_unusable().empty()) GTEST_SKIP() << "no GPU: " << ::bg::gpu_unusable()

inline constexpr double kPoison = std::numeric_limits<double>::quiet_NaN();

inline float float_from_bf16(uint16_t x) {
  return std::bit_cast<float>(uint32_t{x} << 16);
}
/// To nearest, ties to even; a NaN stays one.
inline uint16_t bf16_from_float(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if (x != x) return static_cast<uint16_t>(u >> 16 | 0x40u);
  return static_cast<uint16_t>((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/// A contiguous tensor and its memory. On the CPU exactly as large as needed, so that AddressSanitizer sees one element
/// too many; on a GPU followed by bytes that must stay as they are.
class Owned {
 public:
  Owned(DType dtype, Shape shape) {
    const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
    memory_ = Memory(new char[bytes](), [](char* p) { delete[] p; });
    view_ = Tensor(memory_.get(), shape, dtype, Device::cpu);
  }
  /// Normal values with mean `shift` and deviation `scale`, rounded to float32 in every dtype, or to bfloat16.
  static Owned normal(DType dtype, Shape shape, std::string_view name, double scale = 1, double shift = 0,
                      DType rounded = DType::f32) {
    Owned out(dtype, shape);
    const Random random(17, name);
    for (int64_t i = 0; i < shape.numel(); ++i) {
      const float x = static_cast<float>(shift + scale * random.normal(static_cast<uint64_t>(i)));
      out.set(i, rounded == DType::bf16 ? float_from_bf16(bf16_from_float(x)) : x);
    }
    return out;
  }
  static Owned ids(Shape shape, std::vector<int32_t> values) {
    Owned out(DType::i32, shape);
    BG_CHECK(static_cast<int64_t>(values.size()) == shape.numel(), "ids:", values.size());
    std::copy(values.begin(), values.end(), out.view_.ptr<int32_t>());
    return out;
  }
  /// Integers in low..high.
  static Owned random_ids(Shape shape, int64_t low, int64_t high, std::string_view name) {
    Owned out(DType::i32, shape);
    const Random random(17, name);
    for (int64_t i = 0; i < shape.numel(); ++i)
      out.view_.ptr<int32_t>()[i] =
          static_cast<int32_t>(low + static_cast<int64_t>(random.below(static_cast<uint64_t>(i), high - low + 1)));
    return out;
  }

  /// A copy where the context works.
  Owned to(const Ctx& ctx) const {
    Owned out(view_.dtype(), view_.shape());
    if (ctx.device == Device::cuda) {
      const size_t bytes = view_.size_bytes();
      char* p = static_cast<char*>(allocate(Device::cuda, bytes + kGuard));
      out.memory_ = Memory(p, [](char* q) { release(Device::cuda, q); });
      out.view_ = Tensor(p, view_.shape(), view_.dtype(), Device::cuda);
      copy_bytes(ctx, p + bytes, Device::cuda, std::string(kGuard, kGuardByte).data(), Device::cpu, kGuard);
    }
    copy_bytes(ctx, out.view_.data(), out.view_.device(), view_.data(), view_.device(), view_.size_bytes());
    return out;
  }
  /// A copy on the CPU. Throws when something was written behind the end of a GPU's tensor.
  Owned host(const Ctx& ctx) const {
    Owned out(view_.dtype(), view_.shape());
    copy_bytes(ctx, out.view_.data(), Device::cpu, view_.data(), view_.device(), view_.size_bytes());
    if (view_.device() == Device::cuda) {
      std::string guard(kGuard, '\0');
      copy_bytes(ctx, guard.data(), Device::cpu, memory_.get() + view_.size_bytes(), Device::cuda, kGuard);
      BG_CHECK(guard == std::string(kGuard, kGuardByte), "written behind the end of", view_.shape().str());
    }
    return out;
  }

  operator Tensor() const { return view_; }
  Tensor view() const { return view_; }
  int64_t numel() const { return view_.numel(); }
  // What follows is for tensors on the CPU.
  double at(int64_t i) const {
    switch (view_.dtype()) {
      case DType::f64:
        return view_.ptr<double>()[i];
      case DType::bf16:
        return static_cast<double>(float_from_bf16(static_cast<const uint16_t*>(view_.data())[i]));
      default:
        return static_cast<double>(view_.ptr<float>()[i]);
    }
  }
  void set(int64_t i, double v) {
    switch (view_.dtype()) {
      case DType::f64:
        view_.ptr<double>()[i] = v;
        break;
      case DType::bf16:
        static_cast<uint16_t*>(view_.data())[i] = bf16_from_float(static_cast<float>(v));
        break;
      default:
        view_.ptr<float>()[i] = static_cast<float>(v);
    }
  }
  void fill(double v) {
    for (int64_t i = 0; i < numel(); ++i) set(i, v);
  }
  std::vector<double> values() const {
    std::vector<double> out;
    for (int64_t i = 0; i < numel(); ++i) out.push_back(at(i));
    return out;
  }
  /// The bytes themselves: equal bits, NaN included.
  std::string bits() const { return std::string(memory_.get(), view_.size_bytes()); }

 private:
  static constexpr size_t kGuard = 256;
  static constexpr char kGuardByte = '\x5a';
  using Memory = std::unique_ptr<char[], void (*)(char*)>;
  Memory memory_{nullptr, [](char*) {}};
  Tensor view_;
};

}  // namespace bg
