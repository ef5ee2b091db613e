// Hopper's own instructions (sm_90a), one thin function each: barriers in shared memory, the copy engine (TMA),
// warpgroup matrix products (wgmma), register hand-over. Names follow PTX ISA, chapters "mbarrier",
// "cp.async.bulk.tensor" and "wgmma". Shared-memory addresses are 32-bit numbers from shared_address().
//
// Layouts, with w = warp in the warpgroup (0..3), l = lane, all of a warpgroup's 128 threads taking part:
//
// Accumulator D (64 x N, float, N/2 registers a thread): register i holds
//     row 16 w + l/4 + 8 ((i/2) % 2),   column 8 (i/4) + 2 (l%4) + i%2.
// A from registers (64 x 16, bf16, 4 registers of two values, the lower column in the lower half):
//     a[0]: row 16 w + l/4, columns 2 (l%4) + {0, 1};   a[1]: row + 8;   a[2]: columns + 8;   a[3]: both.
//   So accumulator registers 8 s .. 8 s + 7, packed in pairs, are the A registers of columns 16 s .. 16 s + 15.
// A tile in shared memory, 128-byte swizzle: rows of 64 bf16 (128 bytes), 8 rows to a group of 1024 bytes, groups one
//   after the other, the tile's start a multiple of 1024. The 16-byte chunk c of row r lies at chunk c ^ (r % 8) of
//   that row: swizzled(). The copy engine writes and reads the same layout with SWIZZLE_128B and boxes 64 wide.
// Such a tile is an operand in two ways, both for 16-bit types:
//   K-major:  rows are M (or N), the 64 columns are K. 16 columns of K further = start address + 32 bytes; 64 rows
//             further = + 8192 bytes.                                          descriptor_k(start)
//   MN-major: rows are K, the 64 columns are M (or N): the operand is read transposed. 16 rows of K further = start
//             address + 2048 bytes. N = 128 takes two such tiles, `next` bytes apart. descriptor_mn(start, next)
// Matrix descriptor (64 bits): 0-13 start address / 16; 16-29 leading offset / 16 (128-byte swizzle: unused for
//   K-major, the distance of neighbouring 64-wide tiles for MN-major); 32-45 stride offset / 16 (distance of groups of
//   8 rows: 1024 bytes); 49-51 base offset, 0 for tiles aligned to 1024 bytes; 62-63 swizzle, 1 = 128 bytes.
#pragma once

#include <cuda.h>  // CUtensorMap: the type only
#include <cuda_bf16.h>

#include <cstdint>

namespace bg::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Byte offset of 16-byte chunk `chunk` (0..7) of row `row` in a tile with 128-byte swizzle.
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t chunk) {
  return row * 128 + ((chunk ^ (row & 7)) << 4);
}

// ---- Barriers in shared memory (8 bytes each, aligned to 8)

/// A phase ends when `count` arrivals and all announced bytes have come. One thread; then fence_barrier_init() and a
/// barrier of the block.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives and announces `bytes` that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
/// Waits until the phase of this parity has ended. Phases count from 0; a fresh barrier counts as having ended parity
/// 1, so a producer's first wait for a free place, with parity 1, passes.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
/// bar.sync: `threads` (a multiple of 32) threads meet at barrier `id` (1..15; 0 is __syncthreads).
__device__ __forceinline__ void named_barrier_sync(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Copy engine

/// What L2 should do with the bytes of a copy.
__device__ __forceinline__ uint64_t l2_evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint64_t l2_evict_last() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// One thread: the box at (c0 innermost .. c3) goes to shared memory `to` (128-byte swizzle: aligned to 1024); its
/// bytes, those out of range included (zeros), count at `barrier`. map: a __grid_constant__ argument.
__device__ __forceinline__ void tma_load_4d(uint32_t to, const CUtensorMap* map, uint32_t barrier, int c0, int c1,
                                            int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
/// The same with an L2 policy.
__device__ __forceinline__ void tma_load_4d(uint32_t to, const CUtensorMap* map, uint32_t barrier, int c0, int c1,
                                            int c2, int c3, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(policy)
      : "memory");
}
/// One thread: the box in shared memory `from` goes to (c0 .. c3); elements out of range are dropped. The threads that
/// wrote it each call fence_proxy_async() and meet at a barrier first. Then tma_store_commit(), tma_store_wait_read().
__device__ __forceinline__ void tma_store_4d(const CUtensorMap* map, uint32_t from, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
                   reinterpret_cast<uint64_t>(map)),
               "r"(from), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}
__device__ __forceinline__ void tma_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until this thread's stores but the last `kPending` have read shared memory, which may then be overwritten.
template <int kPending>
__device__ __forceinline__ void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
/// Waits until this thread's stores but the last `kPending` are complete. Shared memory must live until then.
template <int kPending>
__device__ __forceinline__ void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kPending) : "memory");
}
/// Orders this thread's ordinary shared-memory accesses before later ones of the copy engine and the matrix units.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Registers

/// All warps of a warpgroup: registers a thread from now on (a multiple of 8). The kernel needs
/// __launch_bounds__(threads, 1) and one if/else between the roles; give registers back before others can take them.
template <int kRegisters>
__device__ __forceinline__ void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Numbers

/// 2^x, relative error 2^-22, results below 2^-126 are 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Rounds both to bf16 (to nearest even); `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// ---- Matrix products

__device__ __forceinline__ uint64_t descriptor_k(uint32_t start) {
  return uint64_t{(start & 0x3ffffu) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
__device__ __forceinline__ uint64_t descriptor_mn(uint32_t start, uint32_t next = 8192) {
  return uint64_t{(start & 0x3ffffu) >> 4} | uint64_t{(next & 0x3ffffu) >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}

/// Before the first product, and before a product whose registers (accumulator or A) other instructions have touched.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Ends a group of products.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most kPending groups are unfinished. Each warp waits for its own part. Then wgmma_pin() the
/// accumulators that are to be read.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps the compiler from moving uses of these registers across this point: products write them behind its back.
template <int n>
__device__ __forceinline__ void wgmma_pin(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n>
__device__ __forceinline__ void wgmma_pin(uint32_t (&a)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

/// How an operand lies in shared memory; see the top.
enum class Major { k = 0, mn = 1 };

// An accumulator's 32 or 64 registers, always the first operands: in the instruction's text, and as operands that are
// read and written ("+f") or only written ("=f").
#define BG_32_NAMES                                                   \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, " \
  "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define BG_64_NAMES                                                                                        \
  BG_32_NAMES                                                                                              \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define BG_8_FLOATS(how, d, i) \
  how(d[i]), how(d[i + 1]), how(d[i + 2]), how(d[i + 3]), how(d[i + 4]), how(d[i + 5]), how(d[i + 6]), how(d[i + 7])
#define BG_32_FLOATS(how, d, i) \
  BG_8_FLOATS(how, d, i), BG_8_FLOATS(how, d, i + 8), BG_8_FLOATS(how, d, i + 16), BG_8_FLOATS(how, d, i + 24)
#define BG_64_FLOATS(how, d) BG_32_FLOATS(how, d, 0), BG_32_FLOATS(how, d, 32)
#define BG_4_REGISTERS(a) "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])

/// Starts d (64 x N) = A (64 x 16) B (16 x N), or += with add. A and B are descriptors of shared memory.
template <int N, Major kA, Major kB>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" BG_32_NAMES "}, %32, %33, add, 1, 1, %35, %36;\n}\n"
        : BG_32_FLOATS("+f", d, 0)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" BG_64_NAMES "}, %64, %65, add, 1, 1, %67, %68;\n}\n"
        : BG_64_FLOATS("+f", d)
        : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
}

/// The same with A in registers, which must stay untouched until the product has finished.
template <int N, Major kB>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t* a, uint64_t b, bool add) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" BG_32_NAMES
        "}, "
        "{%32, %33, %34, %35}, %36, add, 1, 1, %38;\n}\n"
        : BG_32_FLOATS("+f", d, 0)
        : BG_4_REGISTERS(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kB)));
  } else {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" BG_64_NAMES
        "}, "
        "{%64, %65, %66, %67}, %68, add, 1, 1, %70;\n}\n"
        : BG_64_FLOATS("+f", d)
        : BG_4_REGISTERS(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kB)));
  }
}

/// Starts d (64 x 64) = A (64 x 16) B (16 x 64), both K-major in shared memory. d is written only, so that what it held
/// before need not be kept.
__device__ __forceinline__ void wgmma_set(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" BG_32_NAMES "}, %32, %33, add, 1, 1, 0, 0;\n}\n"
      : BG_32_FLOATS("=f", d, 0)
      : "l"(a), "l"(b));
}
/// The same with A in registers.
__device__ __forceinline__ void wgmma_set(float (&d)[32], const uint32_t* a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" BG_32_NAMES
      "}, "
      "{%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}\n"
      : BG_32_FLOATS("=f", d, 0)
      : BG_4_REGISTERS(a), "l"(b));
}

#undef BG_32_NAMES
#undef BG_64_NAMES
#undef BG_8_FLOATS
#undef BG_32_FLOATS
#undef BG_64_FLOATS
#undef BG_4_REGISTERS

}  // namespace bg::cuda
