// How far a result may lie from what it should be. No other file of the tests names a tolerance for floating point.
#pragma once

#include "base/dtype.h"

namespace bg::tolerance {

/// Forward values against a plain formula in float64, as a share of the largest value.
constexpr double formula(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : 4e-6;
}

/// A float64 gradient of one op against finite differences, as a share of 1 + the largest gradient.
inline constexpr double kOpDifference = 2e-9;
/// The same through a whole model, as a share of the tensor's largest gradient plus kModelFloor (rounding).
inline constexpr double kModelDifference = 2e-7;
inline constexpr double kModelFloor = 2e-9;

/// Float32 against float64 bodies at realistic sizes: relative L2 norm of the difference, per tensor.
inline constexpr double kOpFloat32 = 2e-6;
inline constexpr double kModelFloat32 = 2e-4;

/// CUDA bodies against float64 on the CPU, in a context of float32 and of bfloat16 (its outputs are rounded to 8 bits,
/// relative error up to 2e-3, and some are kept for backward): relative L2 norm of the difference, per tensor. Tensors
/// of few elements, which may cancel to almost nothing, may add kCudaSmall times the root of their number of elements
/// to the norm.
inline constexpr double kCudaFloat32 = 5e-6;
inline constexpr double kCudaBf16 = 8e-3;
inline constexpr double kCudaSmall = 1;

/// Logits of steps of decoding against those of a whole pass, both in bfloat16: relative L2 norm of the difference.
/// Every activation is rounded to 8 bits on both ways, from sums in different orders, through every layer.
inline constexpr double kDecodeBf16 = 5e-2;

/// Elementary functions in float32, relative (an ulp is 6e-8 to 1.2e-7).
inline constexpr double kElementaryFloat32 = 3e-7;

/// Sums over a batch taken in parts or at once, float64, relative.
inline constexpr double kReordered = 1e-11;

/// What should be exact but for the rounding of a handful of float64 operations.
inline constexpr double kExact = 1e-14;

/// Products on the GPU against float64 on operands rounded alike: relative L2 norm of the difference.
inline constexpr double kGemmFloat32 = 2e-6;
inline constexpr double kGemmBf16ToFloat32 = 1e-4;  // tensor cores cut sums off rather than round them
inline constexpr double kGemmBf16 = 4e-3;

/// Attention on the GPU against float64 on inputs rounded alike: relative L2 norm of the difference (y and gradients),
/// nats (lse).
constexpr double attention(DType dtype) {
  return dtype == DType::bf16 ? 1e-2 : 2e-5;
}
constexpr double attention_lse(DType dtype) {
  return dtype == DType::bf16 ? 2e-3 : 2e-5;
}

/// The optimiser on the GPU against the CPU's in float32, relative L2 norms over a few steps: weights, moments and
/// averages; what the steps did to one tensor, whose small singular values Newton-Schulz makes large; the same with
/// matrices moved by bfloat16 products.
inline constexpr double kStepFloat32 = 1e-5;
inline constexpr double kStepChangeFloat32 = 2e-4;
inline constexpr double kStepBf16 = 6e-2;

}  // namespace bg::tolerance
