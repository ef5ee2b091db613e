// Whether two ranks hold the same bits: one 64-bit number per tensor to compare.
//
//   f(x) = sum_i mix(bits(x[i]) + (i + 1) * 0x9e3779b97f4a7c15)  mod 2^64,   bits: the element's pattern, unsigned
//   mix(z): z ^= z >> 30; z *= 0xbf58476d1ce4e5b9; z ^= z >> 27; z *= 0x94d049bb133111eb; z ^= z >> 31
// A sum of integers has the same value in any order. Different tensors agree only by chance (about 2^-64); it is
// not a cryptographic hash.
// Source of mix: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/ctx.h"
#include "tensor/tensor.h"

#ifdef __CUDACC__
#define BG_HOST_DEVICE __host__ __device__
#else
#define BG_HOST_DEVICE
#endif

namespace bg {

BG_HOST_DEVICE constexpr uint64_t fingerprint_of(uint64_t bits, uint64_t i) {
  uint64_t z = bits + (i + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// One number for each tensor (contiguous; float32, or on the CPU also float64). Waits for the context's work.
/// Throws InvalidArgument when a tensor is not contiguous, of another dtype, or not on the context's device.
std::vector<uint64_t> fingerprints(const Ctx& ctx, std::span<const Tensor> tensors);

namespace cpu {
void fingerprints(const Ctx& ctx, std::span<const Tensor> tensors, std::vector<uint64_t>& out);
}  // namespace cpu
namespace cuda {
void fingerprints(const Ctx& ctx, std::span<const Tensor> tensors, std::vector<uint64_t>& out);
}  // namespace cuda
}  // namespace bg
