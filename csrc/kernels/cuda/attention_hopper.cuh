// What both directions of attention for Hopper share: how blocks share out the work, and which keys a position sees.
#pragma once

#include <cstdint>

namespace bg::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

/// The n-th work item of this block, of a list sorted from long to short: blocks take turns back and forth, so that
/// none gets the longest of every turn. Numbers past the end of the list mean: no more.
__device__ __forceinline__ int item_of_turn(int n) {
  const int blocks = static_cast<int>(gridDim.x), block = static_cast<int>(blockIdx.x);
  return n * blocks + (n % 2 == 0 ? block : blocks - 1 - block);
}

/// First key that position t of a sequence of T sees: among the last `window` positions (1 .. T), in t's own document.
/// doc_start is the sequence's; positions from T on belong to no document.
template <bool kDocuments>
__device__ __forceinline__ int first_key(int t, int T, int window, const int32_t* doc_start) {
  int first = max(0, t - window + 1);
  if (kDocuments && t < T) first = max(first, doc_start[t]);
  return first;
}

/// The same in all lanes, and known to the compiler as such: under branches that might diverge it runs products one
/// after the other. A value that is not read from memory needs no help.
template <bool kFromMemory = true>
__device__ __forceinline__ int uniform(int x) {
  return kFromMemory ? __shfl_sync(0xffffffffu, x, 0) : x;
}

}  // namespace bg::cuda
