// Where random numbers come from: Philox4x32-10 (Salmon et al. 2011), a pure function of (seed, stream, step, element),
// hence the same on every device, thread count and resume.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace bg {

/// FNV-1a of a tensor's or purpose's name: the `stream` below.
constexpr uint32_t stream_of(std::string_view name) {
  uint32_t h = 2166136261u;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 16777619u;
  return h;
}

constexpr std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

class Random {
 public:
  Random(uint64_t seed, std::string_view name, uint32_t step = 0)
      : seed_(seed), stream_(stream_of(name)), step_(step) {}
  std::array<uint32_t, 4> bits(uint64_t element) const {
    return philox({static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32), stream_, step_},
                  {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
  }
  /// Uniform in (0, 1), 53 bits: never 0 and never 1.
  double uniform(uint64_t element) const {
    const auto r = bits(element);
    return ((static_cast<uint64_t>(r[0]) << 21 ^ r[1] >> 11) + 0.5) * 0x1p-53;
  }
  /// Standard normal by Box and Muller.
  double normal(uint64_t element) const {
    const auto r = bits(element);
    const double u = ((static_cast<uint64_t>(r[0]) << 21 ^ r[1] >> 11) + 0.5) * 0x1p-53;
    const double v = ((static_cast<uint64_t>(r[2]) << 21 ^ r[3] >> 11) + 0.5) * 0x1p-53;
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }
  /// Uniform integer in 0..n-1 (n < 2^32), free of bias to within n / 2^64.
  uint64_t below(uint64_t element, uint64_t n) const {
    const auto r = bits(element);
    const uint64_t x = static_cast<uint64_t>(r[0]) << 32 | r[1];
    return static_cast<uint64_t>((static_cast<unsigned __int128>(x) * n) >> 64);
  }

 private:
  uint64_t seed_;
  uint32_t stream_, step_;
};

}  // namespace bg
