// What a tensor holds before the first step.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "base/random.h"
#include "tensor/tensor.h"

namespace bg {

/// First values of a tensor as a pure function of (random numbers, shape), in float64 and row-major. The factories
/// below are those that several layers need; any other start is a function that its layer hands to each() or whole().
class Init {
 public:
  using Fill = std::function<void(const Random&, const Shape&, std::span<double>)>;

  /// Element by element: value(random, i, shape), i counting row by row. Element i should draw random's element i only.
  template <class Value>
  static Init each(Value value) {
    return Init([value = std::move(value)](const Random& random, const Shape& shape, std::span<double> out) {
      for (size_t i = 0; i < out.size(); ++i) out[i] = value(random, static_cast<int64_t>(i), shape);
    });
  }
  /// The whole tensor at once, where one element depends on others; `fill` gets zeros and may be called by any thread.
  static Init whole(Fill fill) { return Init(std::move(fill)); }

  static Init zeros() { return constant(0); }
  static Init ones() { return constant(1); }
  static Init constant(double v);
  static Init normal(double std);
  static Init uniform(double bound);            // in (-bound, bound)
  static Init orthogonal();                     // rows or columns orthonormal, gain 1
  static Init rows(double first, double rest);  // row 0 = first, others = rest

  std::vector<double> draw(const Random& random, const Shape& shape) const;

 private:
  explicit Init(Fill fill) : fill_(std::move(fill)) {}
  Fill fill_;
};

}  // namespace bg
