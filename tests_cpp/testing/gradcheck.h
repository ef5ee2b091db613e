// Finite differences: what a derivative is, by evaluating the function itself.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace bg {

/// df/dx of `value(x)` around x by the five-point rule: error h^4, rounding 1e-15 / h. `value` takes the shifted x.
template <class F>
double difference(double x, double h, F&& value) {
  return (8 * (value(x + h) - value(x - h)) - (value(x + 2 * h) - value(x - 2 * h))) / (12 * h);
}

/// At most `count` of the elements 0..n-1, first and last among them.
inline std::vector<int64_t> some_of(int64_t n, int64_t count) {
  std::vector<int64_t> out;
  if (n <= count) {
    for (int64_t i = 0; i < n; ++i) out.push_back(i);
  } else {
    for (int64_t i = 0; i < count; ++i) out.push_back(i * (n - 1) / (count - 1));
  }
  return out;
}

}  // namespace bg
