#include "tensor/params.h"

#include <algorithm>

#include "base/random.h"
#include "tensor/convert.h"

namespace bg {
namespace {

constexpr int64_t kAlign = static_cast<int64_t>(Buffer::kAlign / sizeof(float));  // elements

constexpr const char* kCodecNames[] = {
#define BG_ROW(name) #name,
    BG_CODECS(BG_ROW)
#undef BG_ROW
};

}  // namespace

const char* name_of(Codec codec) {
  return kCodecNames[static_cast<int>(codec)];
}

Codec codec_of(std::string_view name) {
  const auto* const it = std::find(std::begin(kCodecNames), std::end(kCodecNames), name);
  if (it != std::end(kCodecNames)) return static_cast<Codec>(it - kCodecNames);
  std::string known;
  for (const char* one : kCodecNames) known += words(known.empty() ? "" : ", ", one);
  throw InvalidArgument(words("unknown codec", name, "(known:", known + ")"));
}

std::vector<double> initial_values(const ParamSpec& spec, uint64_t seed) {
  return spec.init.draw(Random(seed, spec.name), spec.shape);
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

std::pair<int64_t, int64_t> ParamTable::range(Mover mover) const {
  std::pair<int64_t, int64_t> out(arena_numel_, 0);
  for (const GroupRow& row : kGroups) {
    if (row.mover != mover) continue;
    out = {std::min(out.first, range(row.group).first), std::max(out.second, range(row.group).second)};
  }
  return out;
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
