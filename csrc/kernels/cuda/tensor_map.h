// How the copy engine is told of a tensor: a map of its address, dimensions and strides.
#pragma once

#include <cuda.h>  // CUtensorMap: the type only; the driver's library is not linked

#include "tensor/tensor.h"

namespace bg::cuda {

/// Map of a (B, T, heads, 64) bf16 view as (64, heads, T, B), innermost first, in boxes of 64 columns of one head at
/// `rows` (1..256) positions, in shared memory with 128-byte swizzle (see hopper.cuh). Positions past T, also negative
/// ones, read as zeros and are not written. The view must satisfy can_map_heads(). Throws SystemError when the driver
/// refuses.
CUtensorMap map_heads(const Tensor& t, int rows);

/// Whether the copy engine can reach t: rank 4, bf16, last dimension 64 and contiguous, address and strides multiples
/// of 16 bytes, no stride negative or too large.
bool can_map_heads(const Tensor& t);

}  // namespace bg::cuda
