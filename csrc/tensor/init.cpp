#include "tensor/init.h"

#include <cmath>

namespace bg {
namespace {

// Eight running sums, so that the compiler may use vectors without reordering anything.
double dot(const double* a, const double* b, int64_t n) {
  double sum[8] = {};
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    for (int l = 0; l < 8; ++l) sum[l] += a[j + l] * b[j + l];
  for (; j < n; ++j) sum[0] += a[j] * b[j];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// Orthonormal rows (or columns, whichever are fewer) by modified Gram-Schmidt of a normal matrix, in place. Such a
// matrix is well conditioned: one pass leaves products of different rows below 1e-11.
void orthonormalise(std::span<double> a, int64_t rows, int64_t cols) {
  const bool tall = rows > cols;
  const int64_t n = tall ? cols : rows, m = tall ? rows : cols;  // n vectors of length m
  std::vector<double> v(static_cast<size_t>(n * m));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) v[i * m + j] = tall ? a[j * cols + i] : a[i * cols + j];
  for (int64_t i = 0; i < n; ++i) {
    double* vi = &v[i * m];
    for (int64_t p = 0; p < i; ++p) {
      const double* vp = &v[p * m];
      const double along = dot(vi, vp, m);
      for (int64_t j = 0; j < m; ++j) vi[j] -= along * vp[j];
    }
    const double norm = std::sqrt(dot(vi, vi, m));
    for (int64_t j = 0; j < m; ++j) vi[j] /= norm;
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j) (tall ? a[j * cols + i] : a[i * cols + j]) = v[i * m + j];
}

}  // namespace

Init Init::constant(double v) {
  return each([v](const Random&, int64_t, const Shape&) { return v; });
}

Init Init::normal(double std) {
  return each([std](const Random& random, int64_t i, const Shape&) { return std * random.normal(i); });
}

Init Init::uniform(double bound) {
  return each([bound](const Random& random, int64_t i, const Shape&) { return bound * (2 * random.uniform(i) - 1); });
}

Init Init::orthogonal() {
  return whole([](const Random& random, const Shape& shape, std::span<double> out) {
    for (size_t i = 0; i < out.size(); ++i) out[i] = random.normal(i);
    orthonormalise(out, shape[0], shape.numel() / shape[0]);
  });
}

Init Init::rows(double first, double rest) {
  return each([first, rest](const Random&, int64_t i, const Shape& shape) {
    return i < shape.numel() / shape[0] ? first : rest;
  });
}

std::vector<double> Init::draw(const Random& random, const Shape& shape) const {
  std::vector<double> out(static_cast<size_t>(shape.numel()));
  fill_(random, shape, out);
  return out;
}

}  // namespace bg
