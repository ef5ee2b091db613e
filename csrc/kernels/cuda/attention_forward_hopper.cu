// Attention forward for Hopper in bf16, heads of 64.
//
//   y[t] = sum_s p[s] v[s] / sum_s p[s],   p[s] = 2^(c q[t].k[s] - m),   c = log2(e) / sqrt(d)
//
// One block per multiprocessor stays and works through items: 128 query rows of one head, the longest first, so that
// all blocks end together. In a block one thread keeps the copy engine busy: queries, and keys and values in tiles of
// 128 positions, into a ring in shared memory. Two warpgroups take 64 query rows each. At a tile, from the diagonal
// down, a warpgroup starts the next tile's scores on the matrix units, meanwhile turns this tile's scores into p, then
// starts y += p v: exponentials and products overlap, across items too.
//
// At d = 64 the 16 exponentials a clock of a multiprocessor take about as long as its products, but they are not what
// limits this kernel: computing a share of them as polynomials on the ordinary units changed nothing.
//
// m: with gains, and none so large that 2^score could leave the range of floats, m = 0: no maximum, no rescaling.
// Otherwise the running maximum of the row. The sum is taken of p before it is rounded to bf16, so that lse is good.
#include <algorithm>
#include <cmath>

#include "base/cuda/launch.cuh"
#include "kernels/cuda/attention_hopper.cuh"
#include "kernels/cuda/attention_hopper.h"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/tensor_map.h"

namespace bg::cuda {
namespace {

constexpr int kSize = 64;      // d
constexpr int kRows = 128;     // query rows of an item
constexpr int kKeys = 128;     // keys of a tile
constexpr int kStages = 4;     // tiles of keys and of values on the way
constexpr int kThreads = 384;  // a warpgroup that loads, two that compute
constexpr float kLn2 = 0.6931471805599453f;
constexpr float kScale = kLog2e / 8;        // 1 / sqrt(d), in powers of two
constexpr float kLargestScore = 60;         // e^60 * 2^20 keys * values of 1e5 is still a float, and e^-60 too
constexpr float kRounding = 1.02f;          // |q| |k| may exceed gain * d by this, rounded to bf16
constexpr uint32_t kTileBytes = 128 * 128;  // 128 rows of 64 bf16
constexpr uint32_t kHalfBytes = kTileBytes / 2;

struct Shared {  // at a multiple of 1024
  alignas(1024) char q[2][kTileBytes];
  char k[kStages][kTileBytes];
  char v[kStages][kTileBytes];
  char y[2][kHalfBytes];
  // "full": the copy engine has brought it. "empty": 8 warps have read it.
  uint64_t q_full[2], q_empty[2], k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
constexpr size_t kSharedBytes = sizeof(Shared) + 1024;  // room to align

struct Arguments {
  int T, H, heads_per_kv, window;  // window: at most T
  int batch_heads, q_tiles, items;
  const int32_t* doc_start;
  const float* gain;  // or null
  float* lse;
};

// 128 query rows of one head and the tiles of keys they see: high, high - 1, .. low.
struct Item {
  int b, h, q0, high, low;
};

template <bool kDocuments>
__device__ __forceinline__ int first_key_of(const Arguments& a, int b, int row) {
  return first_key<kDocuments>(row, a.T, a.window, a.doc_start + static_cast<int64_t>(b) * a.T);
}
template <bool kDocuments>
__device__ __forceinline__ Item item_at(const Arguments& a, int number) {
  const int level = number / a.batch_heads, batch_head = number - level * a.batch_heads;
  Item item;
  item.b = batch_head / a.H;
  item.h = batch_head - item.b * a.H;
  item.high = a.q_tiles - 1 - level;
  item.q0 = item.high * kRows;
  item.low = first_key_of<kDocuments>(a, item.b, item.q0) / kKeys;
  return item;
}

template <bool kDocuments>
__device__ __forceinline__ void load(const Arguments& a, Shared* shared, const CUtensorMap* q, const CUtensorMap* k,
                                     const CUtensorMap* v) {
  const uint64_t once = l2_evict_first(), often = l2_evict_last();
  int tile = 0;
  for (int turn = 0, number; (number = item_of_turn(turn)) < a.items; ++turn) {
    const Item item = item_at<kDocuments>(a, number);
    const int g = item.h / a.heads_per_kv, place = turn % 2;
    const uint32_t q_full = shared_address(&shared->q_full[place]), q_at = shared_address(shared->q[place]);
    mbarrier_wait(shared_address(&shared->q_empty[place]), turn / 2 % 2 ^ 1);
    mbarrier_arrive_expect_tx(q_full, kTileBytes);
    tma_load_4d(q_at, q, q_full, 0, item.h, item.q0, item.b, once);
    tma_load_4d(q_at + kHalfBytes, q, q_full, 0, item.h, item.q0 + 64, item.b, once);
    for (int j = item.high; j >= item.low; --j, ++tile) {
      const int slot = tile % kStages, parity = tile / kStages % 2 ^ 1;
      const uint32_t k_full = shared_address(&shared->k_full[slot]), v_full = shared_address(&shared->v_full[slot]);
      mbarrier_wait(shared_address(&shared->k_empty[slot]), parity);
      mbarrier_arrive_expect_tx(k_full, kTileBytes);
      tma_load_4d(shared_address(shared->k[slot]), k, k_full, 0, g, j * kKeys, item.b, often);
      mbarrier_wait(shared_address(&shared->v_empty[slot]), parity);
      mbarrier_arrive_expect_tx(v_full, kTileBytes);
      tma_load_4d(shared_address(shared->v[slot]), v, v_full, 0, g, j * kKeys, item.b, often);
    }
  }
}

// Where a warpgroup is: a tile of keys of an item.
struct Position {
  int turn = 0, j = 0;
  bool alive = true;
  Item item{};

  template <bool kDocuments>
  __device__ __forceinline__ void open(const Arguments& a) {
    const int number = item_of_turn(turn);
    alive = number < a.items;
    if (!alive) return;
    item = item_at<kDocuments>(a, number);
    item.low = uniform<kDocuments>(item.low);
    j = item.high;
  }
  template <bool kDocuments>
  __device__ __forceinline__ Position next(const Arguments& a) const {
    Position p = *this;
    if (j > item.low) {
      --p.j;
    } else {
      ++p.turn;
      p.open<kDocuments>(a);
    }
    return p;
  }
  __device__ __forceinline__ bool last_of_item() const { return j == item.low; }
};

// One warpgroup's work; see hopper.cuh for which thread holds what.
template <bool kBounded, bool kDocuments>
struct Consumer {
  const Arguments& a;
  const CUtensorMap* y_map;
  Shared* shared;
  const int group, lane, row;  // row: of the item; this thread's second row is 8 further

  float y[kSize / 2], sum[2][2], top[2];  // sums over this thread's columns, even and odd; maxima times kScale
  int first_tile_below;                   // tiles that start below this position hold keys that some row does not see
  Position at;
  int tile = 0;

  __device__ __forceinline__ void begin_item() {
    sum[0][0] = sum[0][1] = sum[1][0] = sum[1][1] = 0;
    top[0] = top[1] = -INFINITY;
    first_tile_below =
        uniform<kDocuments>(first_key_of<kDocuments>(a, at.item.b, min(at.item.q0 + group * 64 + 63, a.T - 1)));
  }

  __device__ __forceinline__ void start_scores(float (&s)[kKeys / 2], int turn, int slot) {
    const uint64_t q = descriptor_k(shared_address(shared->q[turn % 2]) + static_cast<uint32_t>(group) * kHalfBytes);
    const uint64_t k = descriptor_k(shared_address(shared->k[slot]));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kSize / 16; ++i) wgmma<kKeys, Major::k, Major::k>(s, q + 2 * i, k + 2 * i, i > 0);
    wgmma_commit();
  }
  // After the scores at p are there: their operands are no longer needed.
  __device__ __forceinline__ void scores_done(const Position& p, int slot) {
    if (lane != 0) return;
    mbarrier_arrive(shared_address(&shared->k_empty[slot]));
    if (p.last_of_item()) mbarrier_arrive(shared_address(&shared->q_empty[p.turn % 2]));
  }

  __device__ __forceinline__ void hide(float (&s)[kKeys / 2], float value) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int t = at.item.q0 + row + 8 * r, first = first_key_of<kDocuments>(a, at.item.b, t);
      const uint32_t reach = static_cast<uint32_t>(t - first);
      const int key = at.j * kKeys + 2 * (lane % 4) - first;
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (i / 2 % 2 == r && static_cast<uint32_t>(key + 8 * (i / 4) + i % 2) > reach) s[i] = value;
    }
  }

  __device__ __forceinline__ bool some_hidden() const {
    return at.j == at.item.high || at.j * kKeys < first_tile_below;
  }
  __device__ __forceinline__ void add_up(const float (&s)[kKeys / 2]) {
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) sum[i / 2 % 2][i % 2] += s[i];
  }
  __device__ __forceinline__ void bounded_exponentials(float (&s)[kKeys / 2]) {
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = exp2_approx(s[i] * kScale);
    if (some_hidden()) hide(s, 0);
    add_up(s);
  }
  // With the running maximum: shrinks what was summed under a lower one.
  __device__ __forceinline__ void exponentials(float (&s)[kKeys / 2]) {
    if (some_hidden()) hide(s, -INFINITY);
    float largest[2] = {s[0], s[2]}, shrink[2];
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) largest[i / 2 % 2] = fmaxf(largest[i / 2 % 2], s[i]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 1));
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 2));
      const float higher = fmaxf(top[r], largest[r] * kScale);  // finite: the first tile has each row's own key
      shrink[r] = exp2_approx(top[r] - higher);
      top[r] = higher;
      sum[r][0] *= shrink[r];
      sum[r][1] *= shrink[r];
    }
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i) s[i] = exp2_approx(fmaf(s[i], kScale, -top[i / 2 % 2]));
    add_up(s);
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) y[i] *= shrink[i / 2 % 2];
  }

  __device__ __forceinline__ void end_item() {
    const int r0 = at.item.q0 + group * 64;
    const uint32_t to = shared_address(shared->y[group]);
    const bool elected = threadIdx.x % 128 == 0;
    if (elected) tma_store_wait_read<0>();
    named_barrier_sync(1 + group, 128);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[r][0] + sum[r][1];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const float inverse = 1 / total;  // never of zero: a row sees its own key
      const int in_group = row - group * 64 + 8 * r, t = at.item.q0 + row + 8 * r;
#pragma unroll
      for (int chunk = 0; chunk < 8; ++chunk) {
        const uint32_t two = pack_bf16(y[4 * chunk + 2 * r] * inverse, y[4 * chunk + 2 * r + 1] * inverse);
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + swizzled(in_group, chunk) + 4 * (lane % 4)), "r"(two)
                     : "memory");
      }
      if (lane % 4 == 0 && t < a.T)
        a.lse[(static_cast<int64_t>(at.item.b) * a.H + at.item.h) * a.T + t] =
            logf(total) + (kBounded ? 0 : top[r] * kLn2);
    }
    fence_proxy_async();
    named_barrier_sync(1 + group, 128);
    if (elected && r0 < a.T) {
      tma_store_4d(y_map, to, 0, at.item.h, r0, at.item.b);
      tma_store_commit();
    }
  }

  // y += p v, with p the exponentials in s.
  __device__ __forceinline__ void start_values(const float (&s)[kKeys / 2]) {
    const int slot = tile % kStages;
    uint32_t p[kKeys / 4];
#pragma unroll
    for (int i = 0; i < kKeys / 4; ++i) p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
    mbarrier_wait(shared_address(&shared->v_full[slot]), tile / kStages % 2);
    const uint64_t v = descriptor_mn(shared_address(shared->v[slot]));
    const bool add = at.j != at.item.high;
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) wgmma<kSize, Major::mn>(y, p + 4 * i, v + 128 * i, i > 0 || add);
    wgmma_commit();
  }
  __device__ __forceinline__ void await_operands(const Position& p, bool new_item, int tile_number) {
    if (new_item) mbarrier_wait(shared_address(&shared->q_full[p.turn % 2]), p.turn / 2 % 2);
    mbarrier_wait(shared_address(&shared->k_full[tile_number % kStages]), tile_number / kStages % 2);
  }
  // To the next tile; after an item's last one writes its result. False after the last tile.
  __device__ __forceinline__ bool advance(const Position& next) {
    ++tile;
    if (!at.last_of_item()) {
      at.j = next.j;
      return true;
    }
    wgmma_wait<0>();
    wgmma_pin(y);
    end_item();
    at = next;
    if (next.alive) begin_item();
    return next.alive;
  }

  // Bounded scores. The tile `at`, whose scores are in s; the next one's go to `other`.
  __device__ __forceinline__ bool step(float (&s)[kKeys / 2], float (&other)[kKeys / 2]) {
    const Position next = at.template next<kDocuments>(a);
    const int slot_next = (tile + 1) % kStages;
    if (next.alive) await_operands(next, next.turn != at.turn, tile + 1);
    start_scores(other, next.turn, slot_next);  // after the last tile: of whatever is there, unused

    bounded_exponentials(s);
    wgmma_pin(s);

    wgmma_wait<1>();  // the product before: p and y are free
    wgmma_pin(y);
    if (tile > 0 && lane == 0) mbarrier_arrive(shared_address(&shared->v_empty[(tile - 1) % kStages]));
    start_values(s);

    wgmma_wait<1>();  // the next scores
    wgmma_pin(other);
    if (next.alive) scores_done(next, slot_next);
    return advance(next);
  }

  // Any scores. Here only the two warpgroups overlap each other's exponentials and products.
  __device__ __forceinline__ bool simple_step(float (&s)[kKeys / 2], bool new_item) {
    const int slot = tile % kStages;
    await_operands(at, new_item, tile);
    start_scores(s, at.turn, slot);
    wgmma_wait<0>();
    wgmma_pin(s);
    wgmma_pin(y);
    scores_done(at, slot);
    if (tile > 0 && lane == 0) mbarrier_arrive(shared_address(&shared->v_empty[(tile - 1) % kStages]));
    exponentials(s);
    start_values(s);
    return advance(at.template next<kDocuments>(a));
  }

  __device__ __forceinline__ void work() {
    float s[kKeys / 2];
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) y[i] = 0;
    at.template open<kDocuments>(a);  // a block has at least one item
    begin_item();
    if constexpr (kBounded) {
      float other[kKeys / 2];
      await_operands(at, true, 0);
      start_scores(s, 0, 0);
      wgmma_wait<0>();
      wgmma_pin(s);
      scores_done(at, 0);
      while (step(s, other) && step(other, s)) {
      }
    } else {
      while (simple_step(s, at.j == at.item.high)) {
      }
    }
    wgmma_wait<0>();
    tma_store_wait<0>();
  }
};

template <bool kDocuments>
__global__ void __launch_bounds__(kThreads, 1)
    attention_forward_hopper_kernel(const __grid_constant__ Arguments a, const __grid_constant__ CUtensorMap q,
                                    const __grid_constant__ CUtensorMap k, const __grid_constant__ CUtensorMap v,
                                    const __grid_constant__ CUtensorMap y) {
  extern __shared__ char raw[];
  Shared* shared = reinterpret_cast<Shared*>(raw + (1024 - shared_address(raw) % 1024) % 1024);
  const int warpgroup = threadIdx.x / 128, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(shared_address(&shared->q_full[i]), 1);
      mbarrier_init(shared_address(&shared->q_empty[i]), 8);
    }
    for (int i = 0; i < kStages; ++i) {
      mbarrier_init(shared_address(&shared->k_full[i]), 1);
      mbarrier_init(shared_address(&shared->k_empty[i]), 8);
      mbarrier_init(shared_address(&shared->v_full[i]), 1);
      mbarrier_init(shared_address(&shared->v_empty[i]), 8);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (warpgroup == 0) {
    registers_down<24>();
    if (threadIdx.x == 0) load<kDocuments>(a, shared, &q, &k, &v);
  } else {
    registers_up<240>();
    bool bounded = a.gain != nullptr;
    for (int h = lane; bounded && h < a.H; h += 32)
      bounded = fabsf(a.gain[h]) * (8 * kRounding) <= kLargestScore;  // sqrt(d) = 8
    bounded = __all_sync(0xffffffffu, bounded);
    const int group = __shfl_sync(0xffffffffu, warpgroup - 1, 0);  // so that the compiler knows it as uniform
    const int row = static_cast<int>(threadIdx.x - 128) / 32 * 16 + lane / 4;
    if (bounded) {
      Consumer<true, kDocuments>{a, &y, shared, group, lane, row}.work();
    } else {
      Consumer<false, kDocuments>{a, &y, shared, group, lane, row}.work();
    }
  }
}

}  // namespace

bool attention_hopper_serves(const Ctx& ctx, std::initializer_list<Tensor> operands) {
  return ctx.cuda->is_hopper() &&
         std::all_of(operands.begin(), operands.end(), [](const Tensor& t) { return can_map_heads(t); });
}

void attention_forward_hopper(const Ctx& ctx, Tensor q, Tensor k, Tensor v, int64_t window, Tensor doc_start, Tensor y,
                              Tensor lse, Tensor gain) {
  const int64_t B = q.dim(0), T = q.dim(1), H = q.dim(2), G = k.dim(2), q_tiles = ceil_div(T, int64_t{kRows});
  BG_CHECK(T <= INT32_MAX - kRows && B * H * q_tiles <= INT32_MAX / 2, "attention: too many positions or heads:", B, T,
           H);
  Arguments a;
  a.T = static_cast<int>(T);
  a.H = static_cast<int>(H);
  a.heads_per_kv = static_cast<int>(H / G);
  a.window = static_cast<int>(window == 0 ? T : std::min(window, T));
  a.batch_heads = static_cast<int>(B * H);
  a.q_tiles = static_cast<int>(q_tiles);
  a.items = static_cast<int>(B * H * q_tiles);
  a.doc_start = doc_start ? doc_start.ptr<int32_t>() : nullptr;
  a.gain = gain ? gain.ptr<float>() : nullptr;
  a.lse = lse.ptr<float>();
  const CUtensorMap q_map = map_heads(q, 64), k_map = map_heads(k, kKeys), v_map = map_heads(v, kKeys),
                    y_map = map_heads(y, 64);
  const auto kernel = doc_start ? attention_forward_hopper_kernel<true> : attention_forward_hopper_kernel<false>;
  BG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  BG_LAUNCH_AS("attention_forward_hopper_kernel", kernel, std::min(a.items, ctx.cuda->num_sms()), kThreads,
               kSharedBytes, ctx, a, q_map, k_map, v_map, y_map);
}

}  // namespace bg::cuda
