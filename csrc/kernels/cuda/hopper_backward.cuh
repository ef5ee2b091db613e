// What the attention gradients need of Hopper beyond hopper.cuh: products of whole tiles, with left operands read from
// shared memory into registers. Layouts: see hopper.cuh.
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace bg::cuda {

/// Where a tile starts, as the lower half of its descriptor: 16 bytes are 1. The upper half is the same for all tiles.
__device__ __forceinline__ uint32_t tile_at(uint32_t address) {
  return static_cast<uint32_t>(descriptor_k(address));
}
__device__ __forceinline__ uint64_t descriptor_at(uint32_t at) {
  return uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32 | at;
}
inline constexpr uint32_t kAtColumns16 = 32 / 16, kAtRows16 = 16 * 128 / 16, kAtTile = 64 * 128 / 16;

/// A left operand (64 x 64): four steps of 16 columns, in registers or, `registers` being unused, in shared memory.
template <bool kInRegisters>
struct LeftTile {
  uint32_t registers[kInRegisters ? 16 : 1];
  uint32_t at;

  /// tile: address of a swizzled tile of 64 rows. Called by all of a warpgroup, warp 0 .. 3.
  __device__ __forceinline__ void load(uint32_t tile, int warp, int lane) {
    at = __shfl_sync(0xffffffffu, tile_at(tile), 0);
    if constexpr (kInRegisters) {
      // ldmatrix: lanes 8m .. 8m + 7 name the rows of matrix m, which becomes register m: (m % 2) rows 8 further,
      // (m / 2) columns 8 (a chunk) further. Lane l receives row l / 4, columns 2 (l % 4) + {0, 1} of each matrix.
      const uint32_t row = 16 * warp + lane % 16;
#pragma unroll
      for (int kk = 0; kk < 4; ++kk)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(registers[4 * kk]), "=r"(registers[4 * kk + 1]), "=r"(registers[4 * kk + 2]),
                       "=r"(registers[4 * kk + 3])
                     : "r"(tile + swizzled(row, 2 * kk + lane / 16))
                     : "memory");
      wgmma_pin(registers);
    }
  }
  /// x = this (64 x 64) times the transpose of the 64 x 64 tile at b: K-major.
  __device__ __forceinline__ void times(float (&x)[32], uint32_t b) const {
    if constexpr (kInRegisters) {
      wgmma_set(x, registers, descriptor_at(b));
#pragma unroll
      for (int kk = 1; kk < 4; ++kk)
        wgmma<64, Major::k>(x, registers + 4 * kk, descriptor_at(b + kk * kAtColumns16), true);
    } else {
      wgmma_set(x, descriptor_at(at), descriptor_at(b));
#pragma unroll
      for (int kk = 1; kk < 4; ++kk)
        wgmma<64, Major::k, Major::k>(x, descriptor_at(at + kk * kAtColumns16), descriptor_at(b + kk * kAtColumns16),
                                      true);
    }
  }
};

/// An accumulator (64 x 64) rounded to bf16, as left operand: registers 8 kk .. 8 kk + 7 are columns 16 kk .. 16 kk
/// + 15.
__device__ __forceinline__ void pack_left(uint32_t (&a)[16], const float (&x)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  wgmma_pin(a);
}
/// sum += a (64 x 64) times the 64 x 64 tile at b, whose rows are the summed dimension: MN-major. (One tile across, so
/// that the descriptor's leading offset is not used.)
__device__ __forceinline__ void add_product(float (&sum)[32], const uint32_t (&a)[16], uint32_t b) {
#pragma unroll
  for (int kk = 0; kk < 4; ++kk) wgmma<64, Major::mn>(sum, a + 4 * kk, descriptor_at(b + kk * kAtRows16), true);
}

}  // namespace bg::cuda
