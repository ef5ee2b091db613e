// Gradients of attention for Hopper, bf16, heads of 64. With c = log2(e) / sqrt(64) and, per query t,
//   P[t,s] = 2^(c q[t].k[s] - lse[t] log2 e),   dots[t] = dy[t] . y[t],   dS[t,s] = P[t,s] (dy[t].v[s] - dots[t]):
//   dv[s] = sum_t P[t,s] dy[t],   dk[s] = sum_t dS[t,s] q[t] / 8,   dq[t] = sum_s dS[t,s] k[s] / 8.
// Three kernels: dots; dk and dv, a block owning keys; dq, a block owning queries. Both big ones compute P and dS anew
// (seven products of T x T x 64 where five would do), so that every sum stays in one warpgroup's accumulators: nothing
// is added through memory and the order of additions is fixed.
//
// Both are persistent: one block a multiprocessor walks over a fixed list of work items, so that the copies of the next
// item run during the sums of this one. In both, warpgroup 0 feeds a ring of shared tiles and the others each own 64
// rows (keys, or queries) and walk over tiles of 64 positions of the other kind. P and dS go from accumulators to left
// operands without leaving the registers, and each tile of the ring is read twice, K-major for the scores and MN-major
// for the gradients.
#include <algorithm>

#include "base/cuda/launch.cuh"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/hopper_backward.cuh"
#include "kernels/cuda/tensor_map.h"

namespace bg::cuda {
namespace {

constexpr int kTile = 64;  // positions in a shared tile, rows of a warpgroup
constexpr uint32_t kTileBytes = kTile * 64 * sizeof(bf16);
constexpr int kStages = 4;
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kScoreScale = kLog2e / 8;  // of q.k, for 2^x
constexpr float kScale = 1.0f / 8;         // 1 / sqrt(64)
constexpr int kThreadsDots = 256;

// (B, T, heads, 64), last dimension contiguous.
struct View {
  bf16* data;
  int64_t stride_b, stride_t, stride_h;

  explicit View(const Tensor& t)
      : data(t.ptr<bf16>()), stride_b(t.stride(0)), stride_t(t.stride(1)), stride_h(t.stride(2)) {}
  __device__ bf16* row(int b, int t, int h) const { return data + b * stride_b + t * stride_t + h * stride_h; }
};

struct Sizes {
  int B, T, H, G, window;  // window 0: all
};

// ---- dots[b,h,t] = dy[b,t,h] . y[b,t,h]

// Eight threads a row, 16 bytes each; a block takes 4 * 32 positions of one head.
__global__ void __launch_bounds__(kThreadsDots) dots_kernel(View y, View dy, float* dots, int T, int H) {
  constexpr int kRows = kThreadsDots / 8, kPasses = 4;
  const int h = blockIdx.x % H, b = blockIdx.y, chunk = threadIdx.x % 8;
  const int t0 = blockIdx.x / H * (kRows * kPasses) + threadIdx.x / 8;
  Pack<bf16> a[kPasses] = {}, g[kPasses] = {};
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int t = t0 + i * kRows;
    if (t >= T) continue;
    a[i] = load_pack(y.row(b, t, h) + 8 * chunk);
    g[i] = load_pack(dy.row(b, t, h) + 8 * chunk);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += to_float(a[i].v[j]) * to_float(g[i].v[j]);
#pragma unroll
    for (int offset = 4; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    const int t = t0 + i * kRows;
    if (chunk == 0 && t < T) dots[(int64_t{b} * H + h) * T + t] = sum;
  }
}

// ---- What both big kernels share

// Place in the ring of the n-th tile, and the parity of its barriers' phase.
__device__ __forceinline__ uint32_t stage_of(uint32_t n) {
  return n % kStages;
}
__device__ __forceinline__ uint32_t parity_of(uint32_t n) {
  return n / kStages % 2;
}

// Tells the compiler that a value read from memory is the same in all lanes: branches around products depend on it.
__device__ __forceinline__ int uniform(int x) {
  return __shfl_sync(0xffffffffu, x, 0);
}

// The round-th item of this block, of `items` sorted from long to short: blocks take turns back and forth, so that none
// gets the longest of every round. Past the end: no more.
__device__ __forceinline__ int item_of(int round) {
  const int blocks = gridDim.x, i = blockIdx.x;
  return round * blocks + (round % 2 ? blocks - 1 - i : i);
}

// A warpgroup's 64 x 64 accumulator times `scale`, as bf16, to rows first .. first + 63 of head h, those below T.
__device__ __forceinline__ void store_rows(const View& out, const float (&x)[32], float scale, int b, int h, int first,
                                           int T, int warp, int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int t = first + 16 * warp + lane / 4 + 8 * i;
    if (t >= T) continue;
    uint32_t* row = reinterpret_cast<uint32_t*>(out.row(b, t, h) + 2 * (lane % 4));
#pragma unroll
    for (int j = 0; j < 8; ++j) row[4 * j] = pack_bf16(x[4 * j + 2 * i] * scale, x[4 * j + 2 * i + 1] * scale);
  }
}

template <int kWarpgroups>
constexpr int kThreads = 128 * (kWarpgroups + 1);
// Registers: 65536 in all, shared out evenly at the start.
template <int kWarpgroups>
constexpr int kProducerRegisters = kWarpgroups == 3 ? 32 : 24;
template <int kWarpgroups>
constexpr int kConsumerRegisters = kWarpgroups == 3 ? 160 : 240;

// ---- dk, dv

template <int kWarpgroups>
struct alignas(1024) KeysShared {
  uint8_t k[2][kWarpgroups][kTileBytes], v[2][kWarpgroups][kTileBytes];  // of this item and the next
  uint8_t q[kStages][kTileBytes], dy[kStages][kTileBytes];
  // Of the stage's queries. Missing queries have lse2 = inf, hence P = 0.
  alignas(16) float lse2[kStages][kTile], dots[kStages][kTile];
  int32_t doc[kStages][kTile];
  int32_t end[2][kWarpgroups];  // past the last tile of queries of each warpgroup; they do not decrease
  alignas(8) uint64_t keys_full[2], keys_empty[2], full[kStages], empty[kStages];
};

// Past the last query that may see a key up to `last` < T, by the window and the documents. All lanes of a warp.
template <bool kDocs>
__device__ __forceinline__ int end_of_queries(const Sizes& sizes, const int32_t* doc_start, int last, int lane) {
  int end = sizes.T;
  if (sizes.window > 0) end = static_cast<int>(min(int64_t{end}, int64_t{last} + sizes.window));
  if constexpr (kDocs) {
    // doc_start does not decrease: the first query past `last` whose document starts after it. It lies in (lo, hi].
    int lo = last, hi = end;
    while (hi - lo > 1) {
      const int step = (hi - lo + 31) / 32, probe = lo + (lane + 1) * step;
      const bool beyond = probe >= hi || doc_start[probe] > last;
      const int first = __ffs(__ballot_sync(0xffffffffu, beyond)) - 1;  // lane 31 always is
      hi = min(hi, lo + (first + 1) * step);
      lo += first * step;
    }
    end = hi;
  }
  return end;
}

// Rows are keys, columns queries: S^T = K Q^T, dP^T = V dY^T.
// kInRegisters: how many of the two left operands (K, then V) are kept in registers rather than read from shared
// memory. The scores of the next tile are computed during the exponentials of this one.
template <int kWarpgroups, int kInRegisters, bool kDocs>
__global__ void __launch_bounds__(kThreads<kWarpgroups>, 1)
    keys_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap dy_map,
                const float* __restrict__ lse, const float* __restrict__ dots, const int32_t* __restrict__ doc_start,
                View dk_out, View dv_out, Sizes sizes) {
  extern __shared__ __align__(1024) uint8_t memory[];
  KeysShared<kWarpgroups>& shared = *reinterpret_cast<KeysShared<kWarpgroups>*>(memory);
  const int T = sizes.T, group = sizes.H / sizes.G, lane = threadIdx.x % 32;
  // The first keys are seen by most queries.
  constexpr int kKeys = kWarpgroups * kTile;
  const int pairs = sizes.B * sizes.G, items = pairs * ((T + kKeys - 1) / kKeys);

  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared_address(&shared.keys_full[i]), 1);
      mbarrier_init(shared_address(&shared.keys_empty[i]), 128 * kWarpgroups);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(shared_address(&shared.full[i]), 33);  // the lanes of the producer, and its announcement
      mbarrier_init(shared_address(&shared.empty[i]), 128 * kWarpgroups);  // every consumer: it reads plain memory too
    }
    fence_barrier_init();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    registers_down<kProducerRegisters<kWarpgroups>>();
    if (threadIdx.x >= 32) return;
    uint32_t n = 0;
    for (int round = 0;; ++round) {
      const int item = item_of(round);
      if (item >= items) break;
      const int b = item % pairs / sizes.G, g = item % pairs % sizes.G, key0 = item / pairs * kKeys;
      const int32_t* docs = kDocs ? doc_start + int64_t{b} * T : nullptr;
      // Tiles of queries, for each head of the group: first .. end - 1.
      const int first = key0 / kTile, slot = round % 2;
      mbarrier_wait(shared_address(&shared.keys_empty[slot]), round / 2 % 2 ^ 1);
      int end = first;
      for (int i = 0; i < kWarpgroups; ++i) {
        const int last = min(key0 + (i + 1) * kTile, T) - 1;
        if (key0 + i * kTile < T) end = (end_of_queries<kDocs>(sizes, docs, last, lane) + kTile - 1) / kTile;
        if (lane == 0) shared.end[slot][i] = end;
      }
      if (lane == 0) {
        const uint32_t barrier = shared_address(&shared.keys_full[slot]);
        mbarrier_arrive_expect_tx(barrier, 2 * kWarpgroups * kTileBytes);
        for (int i = 0; i < kWarpgroups; ++i) {
          tma_load_4d(shared_address(shared.k[slot][i]), &k_map, barrier, 0, g, key0 + i * kTile, b);
          tma_load_4d(shared_address(shared.v[slot][i]), &v_map, barrier, 0, g, key0 + i * kTile, b);
        }
      }
      __syncwarp();
      for (int h = g * group; h < (g + 1) * group; ++h) {
        const int64_t row = (int64_t{b} * sizes.H + h) * T;
        float lse2[2], dot[2];
        int doc[2];
        const auto fetch = [&](int tile) {  // the values of two queries a lane
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int t = tile * kTile + lane + 32 * i;
            lse2[i] = INFINITY, dot[i] = 0.0f, doc[i] = T;
            if (t >= T) continue;
            lse2[i] = lse[row + t] * kLog2e;
            dot[i] = dots[row + t];
            if constexpr (kDocs) doc[i] = docs[t];
          }
        };
        fetch(first);
        for (int tile = first; tile < end; ++tile, ++n) {
          const uint32_t stage = stage_of(n);
          mbarrier_wait(shared_address(&shared.empty[stage]), parity_of(n) ^ 1);
          const uint32_t barrier = shared_address(&shared.full[stage]);
          if (lane == 0) {
            mbarrier_arrive_expect_tx(barrier, 2 * kTileBytes);
            tma_load_4d(shared_address(shared.q[stage]), &q_map, barrier, 0, h, tile * kTile, b);
            tma_load_4d(shared_address(shared.dy[stage]), &dy_map, barrier, 0, h, tile * kTile, b);
          }
          __syncwarp();
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            shared.lse2[stage][lane + 32 * i] = lse2[i];
            shared.dots[stage][lane + 32 * i] = dot[i];
            if constexpr (kDocs) shared.doc[stage][lane + 32 * i] = doc[i];
          }
          mbarrier_arrive(barrier);
          if (tile + 1 < end) fetch(tile + 1);  // arrives during the next wait
        }
      }
    }
  } else {
    registers_up<kConsumerRegisters<kWarpgroups>>();
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1, warp = threadIdx.x / 32 % 4;
    int own_key0 = 0, own_first = 0, own_end = 0;  // keys from own_key0 on take part in tiles own_first .. own_end - 1
    const auto wait_full = [&](uint32_t n) { mbarrier_wait(shared_address(&shared.full[stage_of(n)]), parity_of(n)); };
    const auto release = [&](uint32_t n) { mbarrier_arrive(shared_address(&shared.empty[stage_of(n)])); };
    const uint32_t q_at = tile_at(shared_address(shared.q[0])), dy_at = tile_at(shared_address(shared.dy[0]));

    LeftTile<(kInRegisters > 0)> k;
    LeftTile<(kInRegisters > 1)> v;
    float dk[32], dv[32];
    uint32_t n = 0;
    // S^T of tile n into s; its products are pending.
    const auto scores = [&](float(&s)[32], uint32_t n) {
      wgmma_fence();
      k.times(s, q_at + stage_of(n) * kAtTile);
      wgmma_commit();
    };
    // Tile n, of queries tile * kTile and on. s holds its S^T, next receives that of tile n + 1.
    const auto step = [&](float(&s)[32], float(&next)[32], int tile) {
      const uint32_t stage = stage_of(n);
      float dp[32];
      wgmma_fence();
      v.times(dp, dy_at + stage * kAtTile);
      wgmma_commit();
      const uint32_t ahead =
          tile + 1 < own_end ? n + 1 : n;  // no branch around products: at the end, once more this one
      wait_full(ahead);
      scores(next, ahead);

      // Column 8 j + 2 (lane % 4) + e of the tile; registers 4 j + 2 i + e, i = 0, 1 being two rows.
      const float* lse2 = shared.lse2[stage] + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 l = *reinterpret_cast<const float2*>(lse2 + 8 * j);
        s[4 * j] = exp2_approx(s[4 * j] * kScoreScale - l.x);
        s[4 * j + 1] = exp2_approx(s[4 * j + 1] * kScoreScale - l.y);
        s[4 * j + 2] = exp2_approx(s[4 * j + 2] * kScoreScale - l.x);
        s[4 * j + 3] = exp2_approx(s[4 * j + 3] * kScoreScale - l.y);
      }
      const int t0 = tile * kTile;
      bool partial = t0 < own_key0 + kTile - 1 || (sizes.window > 0 && t0 + kTile - 1 - own_key0 >= sizes.window);
      if constexpr (kDocs) partial |= uniform(shared.doc[stage][kTile - 1]) > own_key0;
      if (partial) {
        const int key = own_key0 + 16 * warp + lane / 4;
        const int limit = sizes.window > 0 ? sizes.window : INT32_MAX;
#pragma unroll
        for (int r = 0; r < 32; ++r) {
          const int row_key = key + 8 * (r / 2 % 2), column = 8 * (r / 4) + 2 * (lane % 4) + r % 2;
          const int past = t0 + column - row_key;
          bool seen = past >= 0 && past < limit;
          if constexpr (kDocs) seen = seen && row_key >= shared.doc[stage][column];
          if (!seen) s[r] = 0.0f;
        }
      }

      wgmma_wait<1>();  // dP^T, and the gradients of tile n - 1
      wgmma_pin(dp);
      if (tile > own_first) release(n - 1);

      uint32_t left[16];
      pack_left(left, s);
      wgmma_fence();
      add_product(dv, left, dy_at + stage * kAtTile);
      wgmma_commit();

      const float* dot = shared.dots[stage] + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 d = *reinterpret_cast<const float2*>(dot + 8 * j);
        dp[4 * j] = s[4 * j] * (dp[4 * j] - d.x);
        dp[4 * j + 1] = s[4 * j + 1] * (dp[4 * j + 1] - d.y);
        dp[4 * j + 2] = s[4 * j + 2] * (dp[4 * j + 2] - d.x);
        dp[4 * j + 3] = s[4 * j + 3] * (dp[4 * j + 3] - d.y);
      }
      uint32_t left_ds[16];
      pack_left(left_ds, dp);
      wgmma_fence();
      add_product(dk, left_ds, q_at + stage * kAtTile);
      wgmma_commit();
      wgmma_wait<2>();  // the next S^T
      wgmma_pin(next);
      ++n;
    };

    for (int round = 0;; ++round) {
      const int item = item_of(round);
      if (item >= items) break;
      const int b = item % pairs / sizes.G, g = item % pairs % sizes.G, key0 = item / pairs * kKeys;
      const int slot = round % 2, first = key0 / kTile;
      mbarrier_wait(shared_address(&shared.keys_full[slot]), round / 2 % 2);
      const int end = uniform(shared.end[slot][kWarpgroups - 1]);
      own_key0 = key0 + warpgroup * kTile;
      own_end = uniform(shared.end[slot][warpgroup]);
      own_first = min(own_key0 / kTile, own_end);
      k.load(shared_address(shared.k[slot][warpgroup]), warp, lane);
      v.load(shared_address(shared.v[slot][warpgroup]), warp, lane);
#pragma unroll
      for (int r = 0; r < 32; ++r) dk[r] = dv[r] = 0.0f;

      for (int h = 0; h < group; ++h) {
        for (int tile = first; tile < own_first; ++tile, ++n) wait_full(n), release(n);
        if (own_first < own_end) {
          float s0[32], s1[32];
          wait_full(n);
          scores(s0, n);
          wgmma_wait<0>();
          wgmma_pin(s0);
          int tile = own_first;
          while (true) {
            step(s0, s1, tile);
            if (++tile == own_end) break;
            step(s1, s0, tile);
            if (++tile == own_end) break;
          }

          wgmma_wait<0>();
          wgmma_pin(dk);
          wgmma_pin(dv);
          release(n - 1);
        }
        for (int tile = own_end; tile < end; ++tile, ++n) wait_full(n), release(n);
      }
      mbarrier_arrive(shared_address(&shared.keys_empty[slot]));
      store_rows(dk_out, dk, kScale, b, g, own_key0, T, warp, lane);
      store_rows(dv_out, dv, 1.0f, b, g, own_key0, T, warp, lane);
    }
  }
}

struct Problem {
  CUtensorMap q, k, v, dy;
  const float* lse;
  const float* dots;
  const int32_t* doc_start;  // or null
  View dq, dk, dv;
  Sizes sizes;
};

template <int kWarpgroups, int kInRegisters>
void launch_keys(const Ctx& ctx, const Problem& p) {
  const int64_t items = int64_t{p.sizes.B} * p.sizes.G * ceil_div(p.sizes.T, kWarpgroups * kTile);
  BG_CHECK(items <= INT32_MAX / 2, "attention: too large for one launch:", items, "work items");
  const int blocks = static_cast<int>(std::min<int64_t>(items, ctx.cuda->num_sms()));
  constexpr int kBytes = sizeof(KeysShared<kWarpgroups>);
  const auto launch = [&](auto kernel) {
    BG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    BG_LAUNCH(kernel, blocks, kThreads<kWarpgroups>, kBytes, ctx, p.q, p.k, p.v, p.dy, p.lse, p.dots, p.doc_start, p.dk,
              p.dv, p.sizes);
  };
  if (p.doc_start != nullptr) {
    launch(keys_kernel<kWarpgroups, kInRegisters, true>);
  } else {
    launch(keys_kernel<kWarpgroups, kInRegisters, false>);
  }
}

// ---- dq

template <int kWarpgroups>
struct alignas(1024) QueriesShared {
  uint8_t q[2][kWarpgroups][kTileBytes], dy[2][kWarpgroups][kTileBytes];  // of this item and the next
  uint8_t k[kStages][kTileBytes], v[kStages][kTileBytes];
  alignas(8) uint64_t queries_full[2], queries_empty[2], full[kStages], empty[kStages];
};

// First key that a query from `first` < T on may see.
template <bool kDocs>
__device__ __forceinline__ int begin_of_keys(const Sizes& sizes, const int32_t* doc_start, int first) {
  int begin = sizes.window > 0 ? max(0, first - sizes.window + 1) : 0;
  if constexpr (kDocs) begin = max(begin, doc_start[first]);  // does not decrease
  return begin;
}

// Rows are queries, columns keys: S = Q K^T, dP = dY V^T.
template <int kWarpgroups, int kInRegisters, bool kDocs>
__global__ void __launch_bounds__(kThreads<kWarpgroups>, 1)
    queries_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, const __grid_constant__ CUtensorMap dy_map,
                   const float* __restrict__ lse, const float* __restrict__ dots, const int32_t* __restrict__ doc_start,
                   View dq_out, Sizes sizes) {
  extern __shared__ __align__(1024) uint8_t memory[];
  QueriesShared<kWarpgroups>& shared = *reinterpret_cast<QueriesShared<kWarpgroups>*>(memory);
  const int T = sizes.T, group = sizes.H / sizes.G, lane = threadIdx.x % 32;
  // The last queries see most keys.
  constexpr int kQueries = kWarpgroups * kTile;
  const int pairs = sizes.B * sizes.H, blocks = (T + kQueries - 1) / kQueries, items = pairs * blocks;

  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared_address(&shared.queries_full[i]), 1);
      mbarrier_init(shared_address(&shared.queries_empty[i]), 4 * kWarpgroups);  // the consumers' warps
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(shared_address(&shared.full[i]), 1);
      mbarrier_init(shared_address(&shared.empty[i]), 4 * kWarpgroups);
    }
    fence_barrier_init();
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    registers_down<kProducerRegisters<kWarpgroups>>();
    if (threadIdx.x != 0) return;
    uint32_t n = 0;
    for (int round = 0;; ++round) {
      const int item = item_of(round);
      if (item >= items) break;
      const int b = item % pairs / sizes.H, h = item % pairs % sizes.H, g = h / group;
      const int query0 = (blocks - 1 - item / pairs) * kQueries, slot = round % 2;
      // Tiles of keys: first .. end - 1.
      const int32_t* docs = kDocs ? doc_start + int64_t{b} * T : nullptr;
      const int first = begin_of_keys<kDocs>(sizes, docs, query0) / kTile;
      const int end = (min(query0 + kQueries, T) + kTile - 1) / kTile;
      mbarrier_wait(shared_address(&shared.queries_empty[slot]), round / 2 % 2 ^ 1);
      const uint32_t queries_full = shared_address(&shared.queries_full[slot]);
      mbarrier_arrive_expect_tx(queries_full, 2 * kWarpgroups * kTileBytes);
      for (int i = 0; i < kWarpgroups; ++i) {
        tma_load_4d(shared_address(shared.q[slot][i]), &q_map, queries_full, 0, h, query0 + i * kTile, b);
        tma_load_4d(shared_address(shared.dy[slot][i]), &dy_map, queries_full, 0, h, query0 + i * kTile, b);
      }
      for (int tile = first; tile < end; ++tile, ++n) {
        const uint32_t stage = stage_of(n);
        mbarrier_wait(shared_address(&shared.empty[stage]), parity_of(n) ^ 1);
        const uint32_t barrier = shared_address(&shared.full[stage]);
        mbarrier_arrive_expect_tx(barrier, 2 * kTileBytes);
        tma_load_4d(shared_address(shared.k[stage]), &k_map, barrier, 0, g, tile * kTile, b);
        tma_load_4d(shared_address(shared.v[stage]), &v_map, barrier, 0, g, tile * kTile, b);
      }
    }
  } else {
    registers_up<kConsumerRegisters<kWarpgroups>>();
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1, warp = threadIdx.x / 32 % 4;
    int own_query0 = 0, own_first = 0, own_end = 0;  // queries from own_query0 on see tiles own_first .. own_end - 1
    int common = 0;                                  // from this key on all of them see everything up to themselves
    // Of rows query + 8 i, query being row lane / 4 of this warp. Missing queries have lse2 = inf, hence P = 0.
    int query = 0, lowest[2];  // lowest: key that the row sees
    float lse2[2], dot[2];

    const auto wait_full = [&](uint32_t n) { mbarrier_wait(shared_address(&shared.full[stage_of(n)]), parity_of(n)); };
    const auto release = [&](uint32_t n) {
      __syncwarp();
      if (lane == 0) mbarrier_arrive(shared_address(&shared.empty[stage_of(n)]));
    };
    const uint32_t k_at = tile_at(shared_address(shared.k[0])), v_at = tile_at(shared_address(shared.v[0]));

    LeftTile<(kInRegisters > 0)> q;
    LeftTile<(kInRegisters > 1)> dy;
    float dq[32];
    uint32_t n = 0;
    const auto scores = [&](float(&s)[32], uint32_t n) {
      wgmma_fence();
      q.times(s, k_at + stage_of(n) * kAtTile);
      wgmma_commit();
    };
    // Tile n, of keys tile * kTile and on. s holds its S, next receives that of tile n + 1.
    const auto step = [&](float(&s)[32], float(&next)[32], int tile) {
      const uint32_t stage = stage_of(n);
      float dp[32];
      wgmma_fence();
      dy.times(dp, v_at + stage * kAtTile);
      wgmma_commit();
      const uint32_t ahead =
          tile + 1 < own_end ? n + 1 : n;  // no branch around products: at the end, once more this one
      wait_full(ahead);
      scores(next, ahead);

      // Registers 4 j + 2 i + e: row lane / 4 + 8 i of the warp, column 8 j + 2 (lane % 4) + e.
#pragma unroll
      for (int r = 0; r < 32; ++r) s[r] = exp2_approx(s[r] * kScoreScale - lse2[r / 2 % 2]);
      const int s0 = tile * kTile;
      if (s0 + kTile - 1 > own_query0 || s0 < common) {
#pragma unroll
        for (int r = 0; r < 32; ++r) {
          const int key = s0 + 8 * (r / 4) + 2 * (lane % 4) + r % 2, i = r / 2 % 2;
          if (key > query + 8 * i || key < lowest[i]) s[r] = 0.0f;
        }
      }

      wgmma_wait<1>();  // dP, and the gradient of tile n - 1
      if (tile > own_first) release(n - 1);

      wgmma_pin(dp);
#pragma unroll
      for (int r = 0; r < 32; ++r) dp[r] = s[r] * (dp[r] - dot[r / 2 % 2]);
      uint32_t left[16];
      pack_left(left, dp);
      wgmma_fence();
      add_product(dq, left, k_at + stage * kAtTile);
      wgmma_commit();
      wgmma_wait<1>();  // the next S
      wgmma_pin(next);
      ++n;
    };

    for (int round = 0;; ++round) {
      const int item = item_of(round);
      if (item >= items) break;
      const int b = item % pairs / sizes.H, h = item % pairs % sizes.H;
      const int query0 = (blocks - 1 - item / pairs) * kQueries, slot = round % 2;
      const int32_t* docs = kDocs ? doc_start + int64_t{b} * T : nullptr;
      const int first = uniform(begin_of_keys<kDocs>(sizes, docs, query0)) / kTile;
      const int end = (min(query0 + kQueries, T) + kTile - 1) / kTile;
      own_query0 = query0 + warpgroup * kTile;
      query = own_query0 + 16 * warp + lane / 4;
      own_first = own_end = end;
      common = 0;
      if (own_query0 < T) {
        own_first = max(first, uniform(begin_of_keys<kDocs>(sizes, docs, own_query0)) / kTile);
        own_end = own_query0 / kTile + 1;
        common = uniform(begin_of_keys<kDocs>(sizes, docs, min(own_query0 + kTile, T) - 1));
      }
      const int64_t row = (int64_t{b} * sizes.H + h) * T;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = query + 8 * i;
        lse2[i] = t < T ? lse[row + t] * kLog2e : INFINITY;
        dot[i] = t < T ? dots[row + t] : 0.0f;
        lowest[i] = t < T ? begin_of_keys<kDocs>(sizes, docs, t) : T;
      }
      mbarrier_wait(shared_address(&shared.queries_full[slot]), round / 2 % 2);
      q.load(shared_address(shared.q[slot][warpgroup]), warp, lane);
      dy.load(shared_address(shared.dy[slot][warpgroup]), warp, lane);
#pragma unroll
      for (int r = 0; r < 32; ++r) dq[r] = 0.0f;

      for (int tile = first; tile < own_first; ++tile, ++n) wait_full(n), release(n);
      if (own_first < own_end) {
        float s0[32], s1[32];
        wait_full(n);
        scores(s0, n);
        wgmma_wait<0>();
        wgmma_pin(s0);
        int tile = own_first;
        while (true) {
          step(s0, s1, tile);
          if (++tile == own_end) break;
          step(s1, s0, tile);
          if (++tile == own_end) break;
        }

        wgmma_wait<0>();
        wgmma_pin(dq);
        release(n - 1);
      }
      for (int tile = own_end; tile < end; ++tile, ++n) wait_full(n), release(n);
      __syncwarp();
      if (lane == 0) mbarrier_arrive(shared_address(&shared.queries_empty[slot]));
      store_rows(dq_out, dq, kScale, b, h, own_query0, T, warp, lane);
    }
  }
}

template <int kWarpgroups, int kInRegisters>
void launch_queries(const Ctx& ctx, const Problem& p) {
  const int64_t items = int64_t{p.sizes.B} * p.sizes.H * ceil_div(p.sizes.T, kWarpgroups * kTile);
  BG_CHECK(items <= INT32_MAX / 2, "attention: too large for one launch:", items, "work items");
  const int blocks = static_cast<int>(std::min<int64_t>(items, ctx.cuda->num_sms()));
  constexpr int kBytes = sizeof(QueriesShared<kWarpgroups>);
  const auto launch = [&](auto kernel) {
    BG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
    BG_LAUNCH(kernel, blocks, kThreads<kWarpgroups>, kBytes, ctx, p.q, p.k, p.v, p.dy, p.lse, p.dots, p.doc_start, p.dq,
              p.sizes);
  };
  if (p.doc_start != nullptr) {
    launch(queries_kernel<kWarpgroups, kInRegisters, true>);
  } else {
    launch(queries_kernel<kWarpgroups, kInRegisters, false>);
  }
}

void launch_dots(const Ctx& ctx, const Tensor& y, const Tensor& dy, float* dots) {
  const int T = static_cast<int>(y.dim(1)), H = static_cast<int>(y.dim(2));
  BG_CHECK(y.dim(0) <= 65535, "attention: at most 65535 sequences, got", y.dim(0));
  const dim3 grid(static_cast<unsigned>(ceil_div(T, kThreadsDots / 8 * 4) * H), static_cast<unsigned>(y.dim(0)));
  BG_LAUNCH(dots_kernel, grid, kThreadsDots, 0, ctx, View(y), View(dy), dots, T, H);
}

}  // namespace

void attention_backward_hopper(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                               Tensor lse, Tensor dy, Tensor dq, Tensor dk, Tensor dv, Tensor scratch) {
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), G = k.dim(2);
  BG_CHECK(T <= INT32_MAX / 2, "attention: T is too large:", T);
  float* dots = static_cast<float*>(scratch.data());
  const Problem p{map_heads(q, kTile),
                  map_heads(k, kTile),
                  map_heads(v, kTile),
                  map_heads(dy, kTile),
                  lse.ptr<float>(),
                  dots,
                  doc_start ? doc_start.ptr<int32_t>() : nullptr,
                  View(dq),
                  View(dk),
                  View(dv),
                  {static_cast<int>(B), static_cast<int>(T), static_cast<int>(H), static_cast<int>(G),
                   static_cast<int>(std::min(window, T))}};
  launch_dots(ctx, y, dy, dots);
  launch_keys<2, 1>(ctx, p);
  launch_queries<2, 2>(ctx, p);
}

}  // namespace bg::cuda
