// A tensor: a typed, shaped, strided view of memory that something else owns. Pass it by value.
#pragma once

#include <array>
#include <initializer_list>
#include <string>

#include "base/check.h"
#include "base/dtype.h"
#include "base/memory.h"

namespace bg {

/// Up to four dimensions; rank 0 is a scalar with one element.
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    BG_CHECK(dims.size() <= kMaxRank, "a tensor has at most 4 dimensions, asked for", dims.size());
    for (int64_t d : dims) dims_[rank_++] = d;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= dims_[i];
    return n;
  }
  void push_back(int64_t d) {
    BG_CHECK(rank_ < kMaxRank, "a tensor has at most 4 dimensions");
    dims_[rank_++] = d;
  }
  bool operator==(const Shape&) const = default;
  std::string str() const {
    std::string s = "(";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
    return s + (rank_ == 1 ? ",)" : ")");
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, Shape shape, DType dtype, Device device)
      : data_(data), shape_(shape), dtype_(dtype), device_(device) {
    int64_t step = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      stride_[i] = step;
      step *= shape[i];
    }
  }

  explicit operator bool() const { return data_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i < 0 ? i + rank() : i]; }
  /// Elements between neighbours along dimension i.
  int64_t stride(int i) const { return stride_[i < 0 ? i + rank() : i]; }
  int64_t numel() const { return shape_.numel(); }
  size_t size_bytes() const { return static_cast<size_t>(numel()) * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  void* data() const { return data_; }
  template <class T>
  T* ptr() const {
    BG_CHECK(DTypeOf<T>::value == dtype_, "tensor holds", name_of(dtype_), "but was read as",
             name_of(DTypeOf<T>::value));
    return static_cast<T*>(data_);
  }
  bool is_contiguous() const {
    int64_t step = 1;
    for (int i = rank() - 1; i >= 0; --i) {
      if (shape_[i] != 1 && stride_[i] != step) return false;
      step *= shape_[i];
    }
    return true;
  }
  /// The same elements under another shape; contiguous tensors only.
  Tensor reshape(Shape shape) const {
    BG_CHECK(is_contiguous() && shape.numel() == numel(), "cannot reshape", shape_.str(), "to", shape.str());
    return Tensor(data_, shape, dtype_, device_);
  }
  /// Elements lo..hi-1 along dimension i, strides kept.
  Tensor slice(int i, int64_t lo, int64_t hi) const {
    BG_CHECK(0 <= lo && lo <= hi && hi <= shape_[i], "slice", lo, hi, "of dimension", i, "of", shape_.str());
    Tensor t = *this;
    t.data_ = static_cast<char*>(data_) + static_cast<size_t>(lo * stride_[i]) * size_of(dtype_);
    Shape s;
    for (int j = 0; j < rank(); ++j) s.push_back(j == i ? hi - lo : shape_[j]);
    t.shape_ = s;
    return t;
  }
  /// Splits the last dimension (n) into (n / d, d): heads. Strides kept.
  Tensor split_last(int64_t d) const {
    BG_CHECK(d > 0 && dim(-1) % d == 0 && stride(-1) == 1, "cannot split", shape_.str(), "by", d);
    Tensor t = *this;
    Shape s;
    for (int j = 0; j + 1 < rank(); ++j) s.push_back(shape_[j]);
    s.push_back(dim(-1) / d);
    s.push_back(d);
    t.shape_ = s;
    t.stride_[rank() - 1] = d;
    t.stride_[rank()] = 1;
    return t;
  }

 private:
  void* data_ = nullptr;
  Shape shape_;
  std::array<int64_t, Shape::kMaxRank> stride_{};
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
};

/// The bytes of one tensor into another of the same size, on whatever devices; see copy_bytes().
inline void copy_tensor(const Ctx& ctx, Tensor from, Tensor to) {
  BG_CHECK(from.is_contiguous() && to.is_contiguous() && from.dtype() == to.dtype() && from.numel() == to.numel(),
           "copy of", name_of(from.dtype()), from.shape().str(), "to", name_of(to.dtype()), to.shape().str());
  copy_bytes(ctx, to.data(), to.device(), from.data(), from.device(), from.size_bytes());
}

}  // namespace bg
