#include "tensor/params.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "tensor/convert.h"

namespace bg {
namespace {

constexpr int64_t kAlign = static_cast<int64_t>(Buffer::kAlign / sizeof(float));  // elements

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
void orthonormalise(std::vector<double>& a, int64_t rows, int64_t cols) {
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

std::vector<double> initial_values(const ParamSpec& spec, uint64_t seed) {
  const Random random(seed, spec.name);
  const int64_t n = spec.shape.numel();
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    switch (spec.init.kind) {
      case Init::Kind::constant:
        out[i] = spec.init.a;
        break;
      case Init::Kind::normal:
        out[i] = spec.init.a * random.normal(i);
        break;
      case Init::Kind::orthogonal:
        out[i] = random.normal(i);
        break;
      case Init::Kind::uniform:
        out[i] = spec.init.a * (2 * random.uniform(i) - 1);
        break;
      case Init::Kind::rows:
        out[i] = i < n / spec.shape[0] ? spec.init.a : spec.init.b;
        break;
    }
  }
  if (spec.init.kind == Init::Kind::orthogonal) orthonormalise(out, spec.shape[0], n / spec.shape[0]);
  return out;
}

void ParamTable::param(Param& handle, std::string name, Shape shape, Init init, Group group, Codec codec,
                       Averaging averaging, bool after) {
  BG_CHECK(find(name) == nullptr, "parameter declared twice:", name);
  BG_CHECK(!after || (!specs_.empty() && specs_.back().group == group), "no neighbour of its group before", name);
  specs_.push_back({std::move(name), shape, init, group, codec, averaging, 0, &handle});
  after_.push_back(after);
}

const ParamSpec* ParamTable::find(std::string_view name) const {
  const auto it = std::find_if(specs_.begin(), specs_.end(), [&](const ParamSpec& s) { return s.name == name; });
  return it == specs_.end() ? nullptr : &*it;
}

Tensor ParamTable::view(const ParamSpec& spec, Tensor arena) {
  char* base = static_cast<char*>(arena.data()) + static_cast<size_t>(spec.offset) * size_of(arena.dtype());
  return Tensor(base, spec.shape, arena.dtype(), arena.device());
}

void ParamTable::allocate(const Ctx& ctx, uint64_t seed) {
  dtype_ = ctx.full_dtype();
  device_ = ctx.device;
  int64_t at = 0;
  for (int g = 0; g < kNumGroups; ++g) {
    ranges_[g].first = at;
    for (size_t i = 0; i < specs_.size(); ++i) {
      if (static_cast<int>(specs_[i].group) != g) continue;
      if (!after_[i]) at = (at + kAlign - 1) / kAlign * kAlign;
      specs_[i].offset = at;
      at += specs_[i].shape.numel();
      numel_ += specs_[i].shape.numel();
    }
    at = (at + kAlign - 1) / kAlign * kAlign;
    ranges_[g].second = at;
  }
  arena_numel_ = at;
  values_ = Buffer(static_cast<size_t>(at) * size_of(dtype_), device_);
  grads_ = Buffer(static_cast<size_t>(at) * size_of(dtype_), device_);
  if (ctx.dtype != dtype_) operands_ = Buffer(static_cast<size_t>(at) * size_of(ctx.dtype), device_);
  for (const ParamSpec& s : specs_) *s.handle = {view(s, values()), view(s, operands()), view(s, grads())};
  const Buffer host(device_ == Device::cpu ? 0 : values_.size_bytes());
  const Tensor drawn = host.data() ? Tensor(host.data(), {at}, dtype_, Device::cpu) : values();
  ctx.pool->parallel_for(static_cast<int64_t>(specs_.size()), [&](int64_t i) {
    const std::vector<double> first = initial_values(specs_[i], seed);
    BG_FLOATS(dtype_, T, std::copy(first.begin(), first.end(), view(specs_[i], drawn).ptr<T>()));
  });
  if (host.data()) copy_bytes(ctx, values_.data(), device_, host.data(), Device::cpu, host.size_bytes());
  refresh_operands(ctx);
}

void ParamTable::refresh_operands(const Ctx& ctx) {
  if (operands_.data()) convert(ctx, values(), operands());
}

Tensor stacked(std::initializer_list<Tensor> parts) {
  const Tensor& first = *parts.begin();
  int64_t rows = 0;
  const char* next = static_cast<const char*>(first.data());
  for (const Tensor& t : parts) {
    BG_CHECK(t.data() == next && t.dim(1) == first.dim(1), "these tensors do not follow one another in memory");
    rows += t.dim(0);
    next += t.size_bytes();
  }
  return Tensor(first.data(), {rows, first.dim(1)}, first.dtype(), first.device());
}

}  // namespace bg
