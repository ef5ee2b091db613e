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

#include "base/cuda/vectors.cuh"
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/hopper_backward.cuh"
#include "kernels/cuda/tensor_map.h"

namespace bg::cuda {
namespace {

constexpr int kTile = 64;  // positions in a shared tile, rows of a warpgroup
constexpr uint32_t kTileBytes = kTile * 64 * sizeof(bf16);
constexpr int kStages = 4;
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

// ---- dots[b,h,t] = dy[b,t,h] . y[b,t,h]

// Eight threads a row, 16 bytes each; a block takes 4 * 32 positions of one head.
__global__ void __launch_bounds__(kThreadsDots) dots_kernel(View y, View dy, float* dots, int T, int H) {
  constexpr int kRows = kThreadsDots / 8, kPasses = 4;
  const int h = blockIdx.x % H, b = blockIdx.y, chunk = threadIdx.x % 8;
  const int t0 = blockIdx.x / H * (kRows * kPasses) + threadIdx.x / 8;
  Vec<bf16, 8> a[kPasses] = {}, g[kPasses] = {};
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    const int t = t0 + i * kRows;
    if (t >= T) continue;
    a[i] = load_vec<8>(y.row(b, t, h) + 8 * chunk);
    g[i] = load_vec<8>(dy.row(b, t, h) + 8 * chunk);
  }
#pragma unroll
  for (int i = 0; i < kPasses; ++i) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += a[i][j] * g[i][j];
#pragma unroll
    for (int offset = 4; offset > 0; offset >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    const int t = t0 + i * kRows;
    if (chunk == 0 && t < T) dots[(int64_t{b} * H + h) * T + t] = sum;
  }
}

// ---- What both big kernels share

constexpr int kWarpgroups = 2;  // that compute, beside the one that loads
constexpr int kThreads = 128 * (kWarpgroups + 1);
constexpr int kBlockRows = kWarpgroups * kTile;                   // keys or queries of a work item
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;  // of 65536 in all, shared out evenly at the start

struct Problem {
  CUtensorMap q, k, v, dy;
  const float* lse;
  const float* dots;
  const int32_t* doc_start;  // or null
  View dq, dk, dv;
  int B, T, H, G, window;  // window: at most T
  int items = 0;           // of work, of one kernel
};

// Place in the ring of the n-th tile, and the parity of its barriers' phase.
__device__ __forceinline__ uint32_t stage_of(uint32_t n) {
  return n % kStages;
}
__device__ __forceinline__ uint32_t parity_of(uint32_t n) {
  return n / kStages % 2;
}

// doc_start of sequence b.
template <bool kDocs>
__device__ __forceinline__ const int32_t* docs_of(const Problem& p, int b) {
  return kDocs ? p.doc_start + int64_t{b} * p.T : nullptr;
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

// ---- dk, dv: rows are keys, columns queries: S^T = K Q^T, dP^T = V dY^T

struct alignas(1024) KeysShared {
  uint8_t k[2][kWarpgroups][kTileBytes], v[2][kWarpgroups][kTileBytes];  // of this item and the next
  uint8_t q[kStages][kTileBytes], dy[kStages][kTileBytes];
  // Of the stage's queries. Missing queries have lse2 = inf, hence P = 0.
  alignas(16) float lse2[kStages][kTile], dots[kStages][kTile];
  int32_t doc[kStages][kTile];
  int32_t end[2][kWarpgroups];  // past the last tile of queries of each warpgroup; they do not decrease
  alignas(8) uint64_t keys_full[2], keys_empty[2], full[kStages], empty[kStages];
};

// 128 keys of one head of keys. The first keys are seen by most queries.
struct KeysItem {
  int b, g, key0;
  __device__ __forceinline__ KeysItem(const Problem& p, int number) {
    const int pairs = p.B * p.G;
    b = number % pairs / p.G, g = number % pairs % p.G, key0 = number / pairs * kBlockRows;
  }
};

// Past the last query that may see a key up to `last` < T, by the window and the documents. All lanes of a warp.
template <bool kDocs>
__device__ __forceinline__ int end_of_queries(const Problem& p, const int32_t* doc_start, int last, int lane) {
  int end = min(p.T, last + p.window);
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

// One warp fetches the items' keys, and for each head of their group the tiles of queries that see them.
template <bool kDocs>
__device__ __forceinline__ void fetch_for_keys(const Problem& p, KeysShared& shared, int lane) {
  const int T = p.T, group = p.H / p.G;
  uint32_t n = 0;
  for (int turn = 0, number; (number = item_of_turn(turn)) < p.items; ++turn) {
    const KeysItem item(p, number);
    const int b = item.b, g = item.g, key0 = item.key0;
    const int32_t* docs = docs_of<kDocs>(p, b);
    const int first = key0 / kTile, slot = turn % 2;
    mbarrier_wait(shared_address(&shared.keys_empty[slot]), turn / 2 % 2 ^ 1);
    int end = first;
    for (int i = 0; i < kWarpgroups; ++i) {
      const int last = min(key0 + (i + 1) * kTile, T) - 1;
      if (key0 + i * kTile < T) end = (end_of_queries<kDocs>(p, docs, last, lane) + kTile - 1) / kTile;
      if (lane == 0) shared.end[slot][i] = end;
    }
    if (lane == 0) {
      const uint32_t barrier = shared_address(&shared.keys_full[slot]);
      mbarrier_arrive_expect_tx(barrier, 2 * kWarpgroups * kTileBytes);
      for (int i = 0; i < kWarpgroups; ++i) {
        tma_load_4d(shared_address(shared.k[slot][i]), &p.k, barrier, 0, g, key0 + i * kTile, b);
        tma_load_4d(shared_address(shared.v[slot][i]), &p.v, barrier, 0, g, key0 + i * kTile, b);
      }
    }
    __syncwarp();
    for (int h = g * group; h < (g + 1) * group; ++h) {
      const int64_t row = (int64_t{b} * p.H + h) * T;
      float lse2[2], dot[2];
      int doc[2];
      // A turn before the first tile and in each: the next tile's plain values are read, to arrive during its wait.
      for (int tile = first - 1; tile < end; ++tile) {
        if (tile >= first) {
          const uint32_t stage = stage_of(n);
          mbarrier_wait(shared_address(&shared.empty[stage]), parity_of(n) ^ 1);
          const uint32_t barrier = shared_address(&shared.full[stage]);
          if (lane == 0) {
            mbarrier_arrive_expect_tx(barrier, 2 * kTileBytes);
            tma_load_4d(shared_address(shared.q[stage]), &p.q, barrier, 0, h, tile * kTile, b);
            tma_load_4d(shared_address(shared.dy[stage]), &p.dy, barrier, 0, h, tile * kTile, b);
          }
          __syncwarp();
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            shared.lse2[stage][lane + 32 * i] = lse2[i];
            shared.dots[stage][lane + 32 * i] = dot[i];
            if constexpr (kDocs) shared.doc[stage][lane + 32 * i] = doc[i];
          }
          mbarrier_arrive(barrier);
          ++n;
        }
        if (tile + 1 == end) break;
#pragma unroll
        for (int i = 0; i < 2; ++i) {  // the next tile's, two queries a lane
          const int t = (tile + 1) * kTile + lane + 32 * i;
          lse2[i] = INFINITY, dot[i] = 0.0f, doc[i] = T;
          if (t >= T) continue;
          lse2[i] = p.lse[row + t] * kLog2e;
          dot[i] = p.dots[row + t];
          if constexpr (kDocs) doc[i] = docs[t];
        }
      }
    }
  }
}

// One warpgroup's work: 64 keys, the tiles of queries that see them one after the other. The scores of the next tile
// are computed during the exponentials of this one. K is kept in registers; there is no room for V.
template <bool kDocs>
struct KeysConsumer {
  const Problem& p;
  KeysShared& shared;
  const int warpgroup, warp, lane;
  const uint32_t q_at, dy_at;

  int own_key0 = 0, own_first = 0, own_end = 0;  // keys from own_key0 on take part in tiles own_first .. own_end - 1
  LeftTile<true> k;
  LeftTile<false> v;
  float dk[32], dv[32];
  uint32_t n = 0;  // tiles of the ring so far

  __device__ __forceinline__ KeysConsumer(const Problem& problem, KeysShared& memory, int group)
      : p(problem),
        shared(memory),
        warpgroup(group),
        warp(threadIdx.x / 32 % 4),
        lane(threadIdx.x % 32),
        q_at(tile_at(shared_address(memory.q[0]))),
        dy_at(tile_at(shared_address(memory.dy[0]))) {}

  __device__ __forceinline__ void wait_full(uint32_t tile) {
    mbarrier_wait(shared_address(&shared.full[stage_of(tile)]), parity_of(tile));
  }
  __device__ __forceinline__ void release(uint32_t tile) {
    mbarrier_arrive(shared_address(&shared.empty[stage_of(tile)]));
  }
  // S^T of the ring's m-th tile into s; its products are pending.
  __device__ __forceinline__ void scores(float (&s)[32], uint32_t m) {
    wgmma_fence();
    k.times(s, q_at + stage_of(m) * kAtTile);
    wgmma_commit();
  }
  // Column 8 j + 2 (lane % 4) + e of the tile; registers 4 j + 2 i + e, i = 0, 1 being two rows.
  __device__ __forceinline__ void exponentials(float (&s)[32], uint32_t stage) {
    const float* lse2 = shared.lse2[stage] + 2 * (lane % 4);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 l = *reinterpret_cast<const float2*>(lse2 + 8 * j);
      s[4 * j] = exp2_approx(s[4 * j] * kScoreScale - l.x);
      s[4 * j + 1] = exp2_approx(s[4 * j + 1] * kScoreScale - l.y);
      s[4 * j + 2] = exp2_approx(s[4 * j + 2] * kScoreScale - l.x);
      s[4 * j + 3] = exp2_approx(s[4 * j + 3] * kScoreScale - l.y);
    }
  }
  __device__ __forceinline__ void hide(float (&s)[32], uint32_t stage, int t0) {
    bool partial = t0 < own_key0 + kTile - 1 || t0 + kTile - 1 - own_key0 >= p.window;
    if constexpr (kDocs) partial |= uniform(shared.doc[stage][kTile - 1]) > own_key0;
    if (!partial) return;
    const int key = own_key0 + 16 * warp + lane / 4;
#pragma unroll
    for (int r = 0; r < 32; ++r) {
      const int row_key = key + 8 * (r / 2 % 2), column = 8 * (r / 4) + 2 * (lane % 4) + r % 2;
      const int past = t0 + column - row_key;
      bool seen = static_cast<uint32_t>(past) < static_cast<uint32_t>(p.window);  // and past >= 0
      if constexpr (kDocs) seen = seen && row_key >= shared.doc[stage][column];
      if (!seen) s[r] = 0.0f;
    }
  }

  // The ring's n-th tile, of queries tile * kTile and on. s holds its S^T, next receives that of the one after.
  __device__ __forceinline__ void step(float (&s)[32], float (&next)[32], int tile) {
    const uint32_t stage = stage_of(n);
    float dp[32];
    wgmma_fence();
    v.times(dp, dy_at + stage * kAtTile);
    wgmma_commit();
    const uint32_t ahead = tile + 1 < own_end ? n + 1 : n;  // no branch around products: at the end, once more this one
    wait_full(ahead);
    scores(next, ahead);

    exponentials(s, stage);
    hide(s, stage, tile * kTile);

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
  }

  // Tiles own_first .. own_end - 1 of one head.
  __device__ __forceinline__ void walk() {
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

  __device__ __forceinline__ void work() {
    const int group = p.H / p.G;
    for (int turn = 0, number; (number = item_of_turn(turn)) < p.items; ++turn) {
      const KeysItem item(p, number);
      const int slot = turn % 2, first = item.key0 / kTile;
      mbarrier_wait(shared_address(&shared.keys_full[slot]), turn / 2 % 2);
      const int end = uniform(shared.end[slot][kWarpgroups - 1]);
      own_key0 = item.key0 + warpgroup * kTile;
      own_end = uniform(shared.end[slot][warpgroup]);
      own_first = min(own_key0 / kTile, own_end);
      k.load(shared_address(shared.k[slot][warpgroup]), warp, lane);
      v.load(shared_address(shared.v[slot][warpgroup]), warp, lane);
#pragma unroll
      for (int r = 0; r < 32; ++r) dk[r] = dv[r] = 0.0f;

      for (int h = 0; h < group; ++h) {
        for (int tile = first; tile < own_first; ++tile, ++n) wait_full(n), release(n);
        if (own_first < own_end) walk();
        for (int tile = own_end; tile < end; ++tile, ++n) wait_full(n), release(n);
      }
      mbarrier_arrive(shared_address(&shared.keys_empty[slot]));
      store_rows(p.dk, dk, kScale, item.b, item.g, own_key0, p.T, warp, lane);
      store_rows(p.dv, dv, 1.0f, item.b, item.g, own_key0, p.T, warp, lane);
    }
  }
};

template <bool kDocs>
__global__ void __launch_bounds__(kThreads, 1) keys_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  KeysShared& shared = *reinterpret_cast<KeysShared*>(memory);
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
    registers_down<kProducerRegisters>();
    if (threadIdx.x < 32) fetch_for_keys<kDocs>(p, shared, threadIdx.x);
  } else {
    registers_up<kConsumerRegisters>();
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    KeysConsumer<kDocs>(p, shared, warpgroup).work();
  }
}

// ---- dq: rows are queries, columns keys: S = Q K^T, dP = dY V^T

struct alignas(1024) QueriesShared {
  uint8_t q[2][kWarpgroups][kTileBytes], dy[2][kWarpgroups][kTileBytes];  // of this item and the next
  uint8_t k[kStages][kTileBytes], v[kStages][kTileBytes];
  alignas(8) uint64_t queries_full[2], queries_empty[2], full[kStages], empty[kStages];
};

// 128 queries of one head, and the tiles of keys first .. end - 1 that they see. The last queries see most keys.
template <bool kDocs>
struct QueriesItem {
  int b, h, query0, first, end;
  const int32_t* docs;
  __device__ __forceinline__ QueriesItem(const Problem& p, int number) {
    const int pairs = p.B * p.H, blocks = (p.T + kBlockRows - 1) / kBlockRows;
    b = number % pairs / p.H, h = number % pairs % p.H;
    query0 = (blocks - 1 - number / pairs) * kBlockRows;
    docs = docs_of<kDocs>(p, b);
    first = first_key<kDocs>(query0, p.T, p.window, docs) / kTile;
    end = (min(query0 + kBlockRows, p.T) + kTile - 1) / kTile;
  }
};

// One thread fetches the items' queries, and the tiles of keys that they see.
template <bool kDocs>
__device__ __forceinline__ void fetch_for_queries(const Problem& p, QueriesShared& shared) {
  const int group = p.H / p.G;
  uint32_t n = 0;
  for (int turn = 0, number; (number = item_of_turn(turn)) < p.items; ++turn) {
    const QueriesItem<kDocs> item(p, number);
    const int b = item.b, h = item.h, g = h / group, slot = turn % 2;
    mbarrier_wait(shared_address(&shared.queries_empty[slot]), turn / 2 % 2 ^ 1);
    const uint32_t queries_full = shared_address(&shared.queries_full[slot]);
    mbarrier_arrive_expect_tx(queries_full, 2 * kWarpgroups * kTileBytes);
    for (int i = 0; i < kWarpgroups; ++i) {
      tma_load_4d(shared_address(shared.q[slot][i]), &p.q, queries_full, 0, h, item.query0 + i * kTile, b);
      tma_load_4d(shared_address(shared.dy[slot][i]), &p.dy, queries_full, 0, h, item.query0 + i * kTile, b);
    }
    for (int tile = item.first; tile < item.end; ++tile, ++n) {
      const uint32_t stage = stage_of(n);
      mbarrier_wait(shared_address(&shared.empty[stage]), parity_of(n) ^ 1);
      const uint32_t barrier = shared_address(&shared.full[stage]);
      mbarrier_arrive_expect_tx(barrier, 2 * kTileBytes);
      tma_load_4d(shared_address(shared.k[stage]), &p.k, barrier, 0, g, tile * kTile, b);
      tma_load_4d(shared_address(shared.v[stage]), &p.v, barrier, 0, g, tile * kTile, b);
    }
  }
}

// One warpgroup's work: 64 queries, the tiles of keys that they see one after the other. Both left operands are kept in
// registers.
template <bool kDocs>
struct QueriesConsumer {
  const Problem& p;
  QueriesShared& shared;
  const int warpgroup, warp, lane;
  const uint32_t k_at, v_at;

  int own_query0 = 0, own_first = 0, own_end = 0;  // queries from own_query0 on see tiles own_first .. own_end - 1
  int common = 0;                                  // from this key on all of them see everything up to themselves
  // Of rows query + 8 i, query being row lane / 4 of this warp. Missing queries have lse2 = inf, hence P = 0.
  int query = 0, lowest[2];  // lowest: key that the row sees
  float lse2[2], dot[2];
  LeftTile<true> q, dy;
  float dq[32];
  uint32_t n = 0;  // tiles of the ring so far

  __device__ __forceinline__ QueriesConsumer(const Problem& problem, QueriesShared& memory, int group)
      : p(problem),
        shared(memory),
        warpgroup(group),
        warp(threadIdx.x / 32 % 4),
        lane(threadIdx.x % 32),
        k_at(tile_at(shared_address(memory.k[0]))),
        v_at(tile_at(shared_address(memory.v[0]))) {}

  __device__ __forceinline__ void wait_full(uint32_t tile) {
    mbarrier_wait(shared_address(&shared.full[stage_of(tile)]), parity_of(tile));
  }
  __device__ __forceinline__ void release(uint32_t tile) {
    __syncwarp();
    if (lane == 0) mbarrier_arrive(shared_address(&shared.empty[stage_of(tile)]));
  }
  // S of the ring's m-th tile into s; its products are pending.
  __device__ __forceinline__ void scores(float (&s)[32], uint32_t m) {
    wgmma_fence();
    q.times(s, k_at + stage_of(m) * kAtTile);
    wgmma_commit();
  }

  // The ring's n-th tile, of keys tile * kTile and on. s holds its S, next receives that of the one after.
  __device__ __forceinline__ void step(float (&s)[32], float (&next)[32], int tile) {
    const uint32_t stage = stage_of(n);
    float dp[32];
    wgmma_fence();
    dy.times(dp, v_at + stage * kAtTile);
    wgmma_commit();
    const uint32_t ahead = tile + 1 < own_end ? n + 1 : n;  // no branch around products: at the end, once more this one
    wait_full(ahead);
    scores(next, ahead);

    // Registers 4 j + 2 i + e: row lane / 4 + 8 i of the warp, column 8 j + 2 (lane % 4) + e.
#pragma unroll
    for (int r = 0; r < 32; ++r) s[r] = exp2_approx(s[r] * kScoreScale - lse2[r / 2 % 2]);
    const int s0 = tile * kTile;
    if (s0 + kTile - 1 > own_query0 || s0 < common) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // a row sees the keys from its lowest to its own
        const int key0 = s0 + 2 * (lane % 4) - lowest[i];
        const auto reach = static_cast<uint32_t>(query + 8 * i - lowest[i]);
#pragma unroll
        for (int r = 0; r < 32; ++r)
          if (r / 2 % 2 == i && static_cast<uint32_t>(key0 + 8 * (r / 4) + r % 2) > reach) s[r] = 0.0f;
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
  }

  // Tiles own_first .. own_end - 1.
  __device__ __forceinline__ void walk() {
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

  // What this warpgroup's queries, and this thread's two, are to see.
  __device__ __forceinline__ void begin_item(const QueriesItem<kDocs>& item, int first) {
    const int T = p.T;
    own_query0 = item.query0 + warpgroup * kTile;
    query = own_query0 + 16 * warp + lane / 4;
    own_first = own_end = item.end;
    common = 0;
    if (own_query0 < T) {
      own_first = max(first, uniform(first_key<kDocs>(own_query0, T, p.window, item.docs)) / kTile);
      own_end = own_query0 / kTile + 1;
      common = uniform(first_key<kDocs>(min(own_query0 + kTile, T) - 1, T, p.window, item.docs));
    }
    const int64_t row = (int64_t{item.b} * p.H + item.h) * T;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = query + 8 * i;
      lse2[i] = t < T ? p.lse[row + t] * kLog2e : INFINITY;
      dot[i] = t < T ? p.dots[row + t] : 0.0f;
      lowest[i] = t < T ? first_key<kDocs>(t, T, p.window, item.docs) : T;
    }
  }

  __device__ __forceinline__ void work() {
    for (int turn = 0, number; (number = item_of_turn(turn)) < p.items; ++turn) {
      const QueriesItem<kDocs> item(p, number);
      const int slot = turn % 2, first = uniform(item.first);
      begin_item(item, first);
      mbarrier_wait(shared_address(&shared.queries_full[slot]), turn / 2 % 2);
      q.load(shared_address(shared.q[slot][warpgroup]), warp, lane);
      dy.load(shared_address(shared.dy[slot][warpgroup]), warp, lane);
#pragma unroll
      for (int r = 0; r < 32; ++r) dq[r] = 0.0f;

      for (int tile = first; tile < own_first; ++tile, ++n) wait_full(n), release(n);
      if (own_first < own_end) walk();
      for (int tile = own_end; tile < item.end; ++tile, ++n) wait_full(n), release(n);
      __syncwarp();
      if (lane == 0) mbarrier_arrive(shared_address(&shared.queries_empty[slot]));
      store_rows(p.dq, dq, kScale, item.b, item.h, own_query0, p.T, warp, lane);
    }
  }
};

template <bool kDocs>
__global__ void __launch_bounds__(kThreads, 1) queries_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(1024) uint8_t memory[];
  QueriesShared& shared = *reinterpret_cast<QueriesShared*>(memory);
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
    registers_down<kProducerRegisters>();
    if (threadIdx.x == 0) fetch_for_queries<kDocs>(p, shared);
  } else {
    registers_up<kConsumerRegisters>();
    const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    QueriesConsumer<kDocs>(p, shared, warpgroup).work();
  }
}

// ---- Launches

// As many blocks as stay at once, or one a work item where those are fewer. heads: of those whose rows blocks own.
template <class Shared, class Kernel>
void launch(const Ctx& ctx, const char* name, Kernel* kernel, Problem p, int heads) {
  const int64_t items = int64_t{p.B} * heads * ceil_div(p.T, kBlockRows);
  BG_CHECK(items <= INT32_MAX / 2, "attention: too large for one launch:", items, "work items");
  p.items = static_cast<int>(items);
  BG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)));
  BG_LAUNCH_AS(name, kernel, std::min(p.items, ctx.cuda->num_sms()), kThreads, sizeof(Shared), ctx, p);
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
                  static_cast<int>(B),
                  static_cast<int>(T),
                  static_cast<int>(H),
                  static_cast<int>(G),
                  static_cast<int>(window == 0 ? T : std::min(window, T))};
  launch_dots(ctx, y, dy, dots);
  launch<KeysShared>(ctx, "attention_backward_hopper: keys_kernel",
                     p.doc_start ? keys_kernel<true> : keys_kernel<false>, p, p.G);
  launch<QueriesShared>(ctx, "attention_backward_hopper: queries_kernel",
                        p.doc_start ? queries_kernel<true> : queries_kernel<false>, p, p.H);
}

}  // namespace bg::cuda
