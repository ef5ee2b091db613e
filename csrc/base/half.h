// How float32 and float16 (IEEE binary16) become each other: round to nearest, ties to even, as NumPy and PyTorch do.
#pragma once

#include <bit>
#include <cstdint>

namespace bg {

/// Overflow gives infinity, NaN stays NaN (quiet).
constexpr uint16_t half_from_float(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint32_t sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65536 and more
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);             // below 2^-25: zero
  uint32_t mantissa, shift;
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, counted in units of 2^-24
    mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    shift = 126 - (magnitude >> 23);
  } else {
    mantissa = magnitude - 0x38000000u;  // exponent bias 127 -> 15
    shift = 13;
  }
  const uint32_t half = 1u << (shift - 1), rest = mantissa & ((1u << shift) - 1);
  uint32_t out = mantissa >> shift;
  if (rest > half || (rest == half && (out & 1))) ++out;  // may carry into the exponent, up to infinity: as it should
  return static_cast<uint16_t>(sign | out);
}

constexpr float float_from_half(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = h >> 10 & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

}  // namespace bg
