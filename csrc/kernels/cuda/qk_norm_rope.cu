// A head vector of 8 L elements, L = 1, 2, 4, .. 32, lies in L neighbouring lanes by eights; a lane keeps its head and
// walks down positions. Other sizes take a warp per vector.
#include "kernels/qk_norm_rope.h"

#include <cmath>

#include "kernels/cuda/columns.cuh"

namespace bg::cuda {
namespace {

// ---- angles

__global__ void __launch_bounds__(256) rope_table_kernel(double base, int64_t T, int64_t r, float* table) {
  const int64_t half = r / 2, i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= T * half) return;
  const int64_t t = i / half, j = i % half;
  const double angle = static_cast<double>(t) * pow(base, -2.0 * static_cast<double>(j) / static_cast<double>(r));
  table[t * r + j] = static_cast<float>(cos(angle));
  table[t * r + half + j] = static_cast<float>(sin(angle));
}

// ---- shapes

template <class T>
struct Packed {
  const T* qkv;       // (N, W): H heads of queries, G of keys, each of d, then values
  const float* gain;  // (H)
  const float* rope;  // (L, r)
  int64_t N, L, W;
  int H, G, d, r;
  // Positions per thread.
  int64_t rows;
};

// Where a head's vectors lie in tensors (N, heads, d) of queries and of keys.
template <class T>
struct HeadPlace {
  T* first;
  int64_t step;
};
template <class T>
__device__ __forceinline__ HeadPlace<T> place_of(T* q, T* k, int head, int H, int G, int d) {
  if (head < H) return {q + head * d, static_cast<int64_t>(H) * d};
  return {k + (head - H) * d, static_cast<int64_t>(G) * d};
}

__device__ __forceinline__ float group_sum(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}

// This lane's part in the rotation: it lies in the first half (a), in the second (b), or outside.
struct Turn {
  bool turns, second;
  int partner;  // lane of the warp that holds the other half
  int column;   // of the cosines; sines follow r/2 further
  __device__ __forceinline__ Turn(int lane_of_group, int r) {
    const int lane = threadIdx.x % 32, half = r / 16;  // lanes per half
    turns = lane_of_group < 2 * half;
    second = lane_of_group >= half;
    partner = turns ? (second ? lane - half : lane + half) : lane;
    column = (second ? lane_of_group - half : lane_of_group) * 8;
  }
};

__device__ __forceinline__ Vec<float, 8> load_angles(const float* p) {  // which nothing here writes
  const float4 low = __ldg(reinterpret_cast<const float4*>(p)), high = __ldg(reinterpret_cast<const float4*>(p) + 1);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

// At position n: (a, b) -> (a cos + b sin, b cos - a sin), or its inverse with sign -1. All lanes take part.
__device__ __forceinline__ void rotate(const Turn& turn, const float* rope, int64_t n, int64_t L, int r, float sign,
                                       float (&x)[8]) {
  Vec<float, 8> cosine = {}, sine = {};
  if (turn.turns) {
    const float* angles = rope + static_cast<uint32_t>(n) % static_cast<uint32_t>(L) * r + turn.column;
    cosine = load_angles(angles);
    sine = load_angles(angles + r / 2);
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float other = __shfl_sync(0xffffffffu, x[j], turn.partner);
    if (turn.turns) x[j] = x[j] * cosine[j] + (turn.second ? -sign : sign) * other * sine[j];
  }
}

// ---- vectors by eights

// out = gain * rope(x * rstd), rstd = (mean x^2 + eps)^(-1/2).
template <class T>
__global__ void __launch_bounds__(512, 2)
    forward_kernel(const Packed<T> in, int lanes, float eps, T* q, T* k, float* rstd) {
  constexpr int kBatch = sizeof(T) == 2 ? 4 : 2;
  const int heads = in.H + in.G, width = heads * lanes, slots = blockDim.x / width;
  const int slot = threadIdx.x / width, within = threadIdx.x % width, head = within / lanes, lane = within % lanes;
  const bool active = slot < slots;  // the block is rounded up to whole warps, of which all lanes shuffle
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * slots + slot) * in.rows;
  const int64_t first = active ? min(begin, in.N) : in.N, last = min(first + in.rows, in.N);
  const T* px = in.qkv + head * in.d + lane * 8;
  const HeadPlace<T> out = place_of(q, k, head, in.H, in.G, in.d);
  const float gain = head < in.H && active ? in.gain[head] : 1.0f;
  const Turn turn(lane, in.r);
  for (int64_t u0 = 0; u0 < in.rows; u0 += kBatch) {  // the same for all lanes of a warp
    Vec<T, 8> x[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t n = first + u0 + u;
      x[u] = {};
      if (n >= last) continue;
      x[u] = load_vec<8>(px + n * in.W);
    }
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t n = first + u0 + u;
      float sum = 0, y[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += x[u][j] * x[u][j];
      const float s = 1.0f / sqrtf(group_sum(sum, lanes) / static_cast<float>(in.d) + eps);
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] = gain * s * x[u][j];
      rotate(turn, in.rope, n, in.L, in.r, 1.0f, y);
      if (n >= last) continue;
      store_vec<8>(out.first + n * out.step + lane * 8, y);
      if (lane == 0) rstd[n * heads + head] = s;
    }
  }
}

// With h the gradient turned back and m = sum x h:  dx = rstd gain (h - x rstd^2 m / d),  dgain += rstd m.
// partial (blocks, H).
template <class T>
__global__ void __launch_bounds__(512, 2) backward_kernel(const Packed<T> in, int lanes, const float* rstd, const T* dq,
                                                          const T* dk, T* dqkv, float* partial) {
  constexpr int kBatch = sizeof(T) == 2 ? 2 : 1;
  __shared__ float part[512];
  const int heads = in.H + in.G, width = heads * lanes, slots = blockDim.x / width;
  const int slot = threadIdx.x / width, within = threadIdx.x % width, head = within / lanes, lane = within % lanes;
  const bool active = slot < slots;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * slots + slot) * in.rows;
  const int64_t first = active ? min(begin, in.N) : in.N, last = min(first + in.rows, in.N);
  const int64_t column = head * in.d + lane * 8;
  const HeadPlace<const T> grad = place_of(dq, dk, head, in.H, in.G, in.d);
  const float gain = head < in.H && active ? in.gain[head] : 1.0f;
  const Turn turn(lane, in.r);
  float dgain = 0;
  for (int64_t u0 = 0; u0 < in.rows; u0 += kBatch) {
    Vec<T, 8> x[kBatch], g[kBatch];
    float s[kBatch];
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t n = first + u0 + u;
      x[u] = g[u] = {};
      s[u] = 0;
      if (n >= last) continue;
      x[u] = load_vec<8>(in.qkv + n * in.W + column);
      g[u] = load_vec<8>(grad.first + n * grad.step + lane * 8);
      s[u] = rstd[n * heads + head];
    }
#pragma unroll
    for (int u = 0; u < kBatch; ++u) {
      const int64_t n = first + u0 + u;
      float h[8], sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) h[j] = g[u][j];
      rotate(turn, in.rope, n, in.L, in.r, -1.0f, h);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += x[u][j] * h[j];
      const float m = group_sum(sum, lanes), along = s[u] * s[u] * m / static_cast<float>(in.d);
      dgain += s[u] * m;
      if (n >= last) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j) h[j] = s[u] * gain * (h[j] - along * x[u][j]);
      store_vec<8>(dqkv + n * in.W + column, h);
    }
  }
  if (active && lane == 0) part[slot * heads + head] = dgain;
  __syncthreads();
  for (int h = threadIdx.x; h < in.H; h += blockDim.x) {
    float total = 0;
    for (int y = 0; y < slots; ++y) total += part[y * heads + h];
    partial[static_cast<int64_t>(blockIdx.x) * in.H + h] = total;
  }
}

// ---- any sizes: block (x, y) takes head x, its eight warps the positions of strip y in turn

template <class T>
__global__ void __launch_bounds__(256) forward_any_kernel(const Packed<T> in, float eps, T* q, T* k, float* rstd) {
  const int head = blockIdx.x, lane = threadIdx.x % 32, half = in.r / 2;
  const int64_t first = blockIdx.y * in.rows, last = min(first + in.rows, in.N);
  const HeadPlace<T> out = place_of(q, k, head, in.H, in.G, in.d);
  const float gain = head < in.H ? in.gain[head] : 1.0f;
  for (int64_t n = first + threadIdx.x / 32; n < last; n += 8) {
    const T* x = in.qkv + n * in.W + static_cast<int64_t>(head) * in.d;
    const float* angles = in.rope + n % in.L * in.r;
    T* y = out.first + n * out.step;
    float sum = 0;
    for (int j = lane; j < in.d; j += 32) sum += to_float(x[j]) * to_float(x[j]);
    const float s = 1.0f / sqrtf(warp_sum(sum) / static_cast<float>(in.d) + eps), factor = gain * s;
    for (int j = lane; j < half; j += 32) {
      const float a = factor * to_float(x[j]), b = factor * to_float(x[half + j]);
      y[j] = from_float<T>(a * angles[j] + b * angles[half + j]);
      y[half + j] = from_float<T>(b * angles[j] - a * angles[half + j]);
    }
    for (int j = 2 * half + lane; j < in.d; j += 32) y[j] = from_float<T>(factor * to_float(x[j]));
    if (lane == 0) rstd[n * (in.H + in.G) + head] = s;
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    backward_any_kernel(const Packed<T> in, const float* rstd, const T* dq, const T* dk, T* dqkv, float* partial) {
  __shared__ float part[8];
  const int head = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, half = in.r / 2;
  const int64_t first = blockIdx.y * in.rows, last = min(first + in.rows, in.N);
  const HeadPlace<const T> grad = place_of(dq, dk, head, in.H, in.G, in.d);
  const float gain = head < in.H ? in.gain[head] : 1.0f;
  float dgain = 0;
  for (int64_t n = first + warp; n < last; n += 8) {
    const T *x = in.qkv + n * in.W + static_cast<int64_t>(head) * in.d, *g = grad.first + n * grad.step;
    T* dx = dqkv + n * in.W + static_cast<int64_t>(head) * in.d;
    const float* angles = in.rope + n % in.L * in.r;
    const float s = rstd[n * (in.H + in.G) + head];
    float sum = 0;
    for (int j = lane; j < half; j += 32) {
      const float a = to_float(g[j]), b = to_float(g[half + j]), c = angles[j], e = angles[half + j];
      sum += to_float(x[j]) * (a * c - b * e) + to_float(x[half + j]) * (a * e + b * c);
    }
    for (int j = 2 * half + lane; j < in.d; j += 32) sum += to_float(x[j]) * to_float(g[j]);
    const float m = warp_sum(sum), along = s * s * m / static_cast<float>(in.d), factor = s * gain;
    dgain += s * m;
    for (int j = lane; j < half; j += 32) {
      const float a = to_float(g[j]), b = to_float(g[half + j]), c = angles[j], e = angles[half + j];
      const float x0 = to_float(x[j]), x1 = to_float(x[half + j]);
      dx[j] = from_float<T>(factor * (a * c - b * e - along * x0));
      dx[half + j] = from_float<T>(factor * (a * e + b * c - along * x1));
    }
    for (int j = 2 * half + lane; j < in.d; j += 32)
      dx[j] = from_float<T>(factor * (to_float(g[j]) - along * to_float(x[j])));
  }
  if (lane == 0) part[warp] = dgain;
  __syncthreads();
  if (threadIdx.x == 0 && head < in.H) {
    float total = 0;
    for (int w = 0; w < 8; ++w) total += part[w];
    partial[static_cast<int64_t>(blockIdx.y) * in.H + head] = total;
  }
}

// ---- launches

template <class T>
Packed<T> packed(Tensor qkv, Tensor gain, Tensor rope, Tensor q, Tensor k) {
  Packed<T> p;
  p.qkv = qkv.ptr<T>();
  p.gain = gain.ptr<float>();
  p.rope = rope.ptr<float>();
  p.L = qkv.dim(1);
  p.N = qkv.dim(0) * p.L;
  p.W = qkv.dim(2);
  p.H = static_cast<int>(q.dim(2));
  p.G = static_cast<int>(k.dim(2));
  p.d = static_cast<int>(q.dim(3));
  p.r = static_cast<int>(rope.dim(1));
  p.rows = 0;
  return p;
}

// Lanes per vector, or 0 where vectors are not taken by eights.
template <class T, class... Tensors>
int lanes_of(const Packed<T>& p, const Tensors&... tensors) {
  const int lanes = p.d / 8;
  const bool power = lanes > 0 && lanes <= 32 && (lanes & (lanes - 1)) == 0;
  return power && whole_vecs<8>(p.d, tensors...) && p.r % 16 == 0 && (p.H + p.G) * lanes <= 512 && p.N < (1LL << 31)
             ? lanes
             : 0;
}

}  // namespace

void rope_table(const Ctx& ctx, double base, int64_t train_len, Tensor table) {
  const int64_t length = table.dim(0), r = table.dim(1);
  if (table.numel() == 0) return;
  if (length > train_len)
    base *= std::pow(static_cast<double>(length) / static_cast<double>(train_len),
                     static_cast<double>(r) / static_cast<double>(r - 2));
  BG_LAUNCH(rope_table_kernel, static_cast<unsigned>(ceil_div(length * (r / 2), int64_t{256})), 256, 0, ctx, base,
            length, r, table.ptr<float>());
}

void qk_norm_rope_forward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, double eps, Tensor q, Tensor k,
                          Tensor rstd) {
  if (qkv.numel() == 0) return;
  BG_CUDA_FLOATS(qkv.dtype(), T, {
    Packed<T> p = packed<T>(qkv, gain, rope, q, k);
    const auto e = static_cast<float>(eps);
    if (const int lanes = lanes_of(p, qkv, rope, q, k); lanes > 0) {
      const int width = (p.H + p.G) * lanes, slots = std::max(1, 256 / width);
      p.rows = 8;
      BG_LAUNCH((forward_kernel<T>), static_cast<unsigned>(ceil_div(p.N, p.rows * slots)),
                ceil_div(slots * width, 32) * 32, 0, ctx, p, lanes, e, q.ptr<T>(), k.ptr<T>(), rstd.ptr<float>());
    } else {
      p.rows = std::max<int64_t>(32, ceil_div(p.N, int64_t{65535}));
      BG_LAUNCH((forward_any_kernel<T>), dim3(p.H + p.G, static_cast<unsigned>(ceil_div(p.N, p.rows))), 256, 0, ctx, p,
                e, q.ptr<T>(), k.ptr<T>(), rstd.ptr<float>());
    }
  });
}

void qk_norm_rope_backward(const Ctx& ctx, Tensor qkv, Tensor gain, Tensor rope, Tensor rstd, Tensor dq, Tensor dk,
                           Tensor dqkv, Tensor dgain) {
  if (qkv.numel() == 0) return;
  BG_CUDA_FLOATS(qkv.dtype(), T, {
    Packed<T> p = packed<T>(qkv, gain, rope, dq, dk);
    const auto scratch = [&](int64_t strips) {
      return static_cast<float*>(ctx.cuda->scratch(static_cast<size_t>(strips * p.H) * sizeof(float)));
    };
    if (const int lanes = lanes_of(p, qkv, rope, dq, dk, dqkv); lanes > 0) {
      const int width = (p.H + p.G) * lanes, slots = std::max(1, 256 / width),
                threads = ceil_div(slots * width, 32) * 32;
      p.rows = std::max<int64_t>(4, ceil_div(p.N, int64_t{5} * ctx.cuda->num_sms() * slots));
      const int64_t strips = ceil_div(p.N, p.rows * slots);
      float* partial = scratch(strips);
      BG_LAUNCH((backward_kernel<T>), static_cast<unsigned>(strips), threads, 0, ctx, p, lanes, rstd.ptr<float>(),
                dq.ptr<T>(), dk.ptr<T>(), dqkv.ptr<T>(), partial);
      add_partials(ctx, partial, strips, p.H, dgain);
    } else {
      p.rows = std::max<int64_t>(32, ceil_div(p.N, int64_t{4096}));
      const int64_t strips = ceil_div(p.N, p.rows);
      float* partial = scratch(strips);
      BG_LAUNCH((backward_any_kernel<T>), dim3(p.H + p.G, static_cast<unsigned>(strips)), 256, 0, ctx, p,
                rstd.ptr<float>(), dq.ptr<T>(), dk.ptr<T>(), dqkv.ptr<T>(), partial);
      add_partials(ctx, partial, strips, p.H, dgain);
    }
  });
}

}  // namespace bg::cuda
