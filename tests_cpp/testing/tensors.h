// Tensors that own their memory, and contexts, for tests.
#pragma once

#include <cstring>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include "base/ctx.h"
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

inline constexpr double kPoison = std::numeric_limits<double>::quiet_NaN();

/// A contiguous tensor and its memory, exactly as large as needed, so that AddressSanitizer sees one element too many.
class Owned {
 public:
  Owned(DType dtype, Shape shape) {
    const size_t bytes = static_cast<size_t>(shape.numel()) * size_of(dtype);
    memory_ = std::make_unique<char[]>(bytes);
    view_ = Tensor(memory_.get(), shape, dtype, Device::cpu);
  }
  /// Normal values with mean `shift` and deviation `scale`, rounded to float32 in every dtype.
  static Owned normal(DType dtype, Shape shape, std::string_view name, double scale = 1, double shift = 0) {
    Owned out(dtype, shape);
    const Random random(17, name);
    for (int64_t i = 0; i < shape.numel(); ++i)
      out.set(i, static_cast<float>(shift + scale * random.normal(static_cast<uint64_t>(i))));
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

  operator Tensor() const { return view_; }
  Tensor view() const { return view_; }
  int64_t numel() const { return view_.numel(); }
  double at(int64_t i) const {
    return view_.dtype() == DType::f64 ? view_.ptr<double>()[i] : static_cast<double>(view_.ptr<float>()[i]);
  }
  void set(int64_t i, double v) {
    if (view_.dtype() == DType::f64)
      view_.ptr<double>()[i] = v;
    else
      view_.ptr<float>()[i] = static_cast<float>(v);
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
  std::unique_ptr<char[]> memory_;
  Tensor view_;
};

}  // namespace bg
