#include "tensor/transfer.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace bg {
namespace {

uint16_t bf16_of(double value) {
  const float f = static_cast<float>(value);
  uint32_t bits = std::bit_cast<uint32_t>(f);
  if (std::isnan(f)) return static_cast<uint16_t>(bits >> 16 | 0x40);
  bits += 0x7fff + (bits >> 16 & 1);
  return static_cast<uint16_t>(bits >> 16);
}

double from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

}  // namespace

void upload(const Ctx& ctx, std::span<const double> values, Tensor t) {
  BG_CHECK(static_cast<int64_t>(values.size()) == t.numel() && t.is_contiguous(), "upload of", values.size(),
           "values to", t.shape().str());
  std::vector<char> host(t.size_bytes());
  if (t.dtype() == DType::bf16)
    std::transform(values.begin(), values.end(), reinterpret_cast<uint16_t*>(host.data()), bf16_of);
  else
    BG_FLOATS(t.dtype(), T,
              std::transform(values.begin(), values.end(), reinterpret_cast<T*>(host.data()),
                             [](double v) { return static_cast<T>(v); }));
  copy_bytes(ctx, t.data(), t.device(), host.data(), Device::cpu, host.size());
}

std::vector<double> download(const Ctx& ctx, Tensor t) {
  BG_CHECK(t.is_contiguous(), "download of a strided tensor of shape", t.shape().str());
  std::vector<char> host(t.size_bytes());
  copy_bytes(ctx, host.data(), Device::cpu, t.data(), t.device(), host.size());
  std::vector<double> out(static_cast<size_t>(t.numel()));
  if (t.dtype() == DType::bf16)
    std::transform(reinterpret_cast<const uint16_t*>(host.data()),
                   reinterpret_cast<const uint16_t*>(host.data()) + t.numel(), out.begin(), from_bf16);
  else
    BG_FLOATS(t.dtype(), T, std::copy_n(reinterpret_cast<const T*>(host.data()), t.numel(), out.begin()));
  return out;
}

}  // namespace bg
