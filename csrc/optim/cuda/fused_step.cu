// One optimiser step as a few launches, with no decision on the host.
//
//   1. squares of the gradients by blocks                          (kernels/cuda/update.cu)
//   2. norm, clip factor, whether everything is finite             -> Verdict
//   3. all matrices: Muon's momentum, u into the buffers of Newton-Schulz, squares of u by chunks
//   4. all matrices: u / |u|
//   5. for each shape: 5 iterations of 3 batched products; where there are several ranks each does its share of the
//      matrices, and they gather the results
//   6. all matrices: decayed step, average, operand
//   7. everything else: Adam, average, operand
// Arenas are cut into chunks that belong to one tensor (or one range); a block does a chunk. A step that must not
// happen leaves at the first line of 3, 4, 6 and 7: the launches are the same.
#include "optim/fused_step.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "kernels/cuda/update.cuh"
#include "optim/average.h"
#include "optim/cuda/newton_schulz.cuh"
#include "optim/muon.h"
#include "optim/optimizer.h"

namespace bg::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;       // elements of a block
constexpr int64_t kMatrixAlign = 128;  // elements between starts of matrices of Newton-Schulz: 256 bytes in bf16

// What differs from step to step; written by prepare().
struct MuonNumbers {
  double lr;
  float keep;  // 1 - lr * weight decay
};
struct Numbers {
  float momentum, average_weight;
  MuonNumbers muon[kNumGroups];  // of the groups that Muon moves
  AdamNumbers adam[kNumGroups];  // of the others
};

// What follows from the gradients.
struct Verdict {
  double norm;
  float scale;
  int go;  // 0: the step must not happen
};

struct Chunk {
  int64_t at;  // element in the arenas
  int64_t x;   // of a matrix: element in the buffers of Newton-Schulz
  int count;   // elements
  int owner;   // number of the matrix, or the group
  int averaged;
};

struct Matrix {
  int first_chunk, chunks, group;
  double stretch;  // sqrt(max(1, rows / columns))
};

struct Arenas {
  float* values;
  const float* grads;
  float *first, *second;  // `second` is moved so that it has the arenas' offsets
  float* ema;             // may be null
  bf16* operands;         // null where values are read
};

__global__ void set_numbers_kernel(Numbers from, Numbers* to) {
  *to = from;
}

// One block: scale = min(1, max_norm / (norm + 1e-6)).
__global__ void __launch_bounds__(1024)
    verdict_kernel(const double* __restrict__ partial, int64_t partials, const double* __restrict__ losses,
                   int64_t num_losses, double max_norm, Verdict* __restrict__ verdict) {
  const double norm = sqrt(sum_in_order(partial, partials));
  bool finite = isfinite(norm);
  for (int64_t i = threadIdx.x; i < num_losses; i += blockDim.x) finite = finite && isfinite(losses[i]);
  const int go = __syncthreads_and(finite);
  if (threadIdx.x > 0) return;
  const double scale = max_norm > 0 ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
  *verdict = {norm, static_cast<float>(scale), go};
}

template <int W>
__device__ __forceinline__ void write_value(const Arenas& arenas, int64_t at, bool averaged, float weight,
                                            const Vec<float, W>& value) {
  store_vec(arenas.values + at, value);
  if (arenas.operands != nullptr) store_vec(arenas.operands + at, value);
  if (!averaged) return;
  auto mean = load_floats<W>(arenas.ema + at);
#pragma unroll
  for (int j = 0; j < W; ++j) mean.v[j] += weight * (value.v[j] - mean.v[j]);
  store_vec(arenas.ema + at, mean);
}

// g' = scale g;  buf = mu buf + g';  u = g' + mu buf.
template <class X>
__global__ void __launch_bounds__(kThreads)
    momentum_kernel(const Chunk* __restrict__ chunks, Arenas arenas, X* __restrict__ x, double* __restrict__ partial,
                    const Numbers* __restrict__ numbers, const Verdict* __restrict__ verdict) {
  if (!verdict->go) return;
  const Chunk chunk = chunks[blockIdx.x];
  const float mu = numbers->momentum, scale = verdict->scale;
  double sum = 0;
  for_elements(chunk.count, chunk.at % 4 == 0, [&](auto width, int i) {
    constexpr int W = width.value;
    const auto g = load_floats<W>(arenas.grads + chunk.at + i);
    auto buf = load_floats<W>(arenas.first + chunk.at + i);
    Vec<float, W> u;
#pragma unroll
    for (int j = 0; j < W; ++j) {
      const float scaled = scale * g.v[j];
      buf.v[j] = mu * buf.v[j] + scaled;
      u.v[j] = scaled + mu * buf.v[j];
      sum += static_cast<double>(u.v[j]) * static_cast<double>(u.v[j]);
    }
    store_vec(arenas.first + chunk.at + i, buf);
    store_vec(x + chunk.x + i, u);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// u / (|u|_F + 1e-7)
template <class X>
__global__ void __launch_bounds__(kThreads)
    normalise_kernel(const Chunk* __restrict__ chunks, const Matrix* __restrict__ matrices, X* __restrict__ x,
                     const double* __restrict__ partial, const Verdict* __restrict__ verdict) {
  if (!verdict->go) return;
  const Chunk chunk = chunks[blockIdx.x];
  const Matrix matrix = matrices[chunk.owner];
  const double factor = 1 / (sqrt(sum_in_order(partial + matrix.first_chunk, matrix.chunks)) + kNewtonSchulzEps);
  for_elements(chunk.count, true, [&](auto width, int i) {
    constexpr int W = width.value;
    auto u = load_floats<W>(x + chunk.x + i);
#pragma unroll
    for (int j = 0; j < W; ++j) u.v[j] = static_cast<float>(static_cast<double>(u.v[j]) * factor);
    store_vec(x + chunk.x + i, u);
  });
}

// p = keep p - lr sqrt(max(1, rows / columns)) O
template <class X>
__global__ void __launch_bounds__(kThreads)
    decayed_kernel(const Chunk* __restrict__ chunks, const Matrix* __restrict__ matrices, const X* __restrict__ o,
                   Arenas arenas, const Numbers* __restrict__ numbers, const Verdict* __restrict__ verdict) {
  if (!verdict->go) return;
  const Chunk chunk = chunks[blockIdx.x];
  const Matrix matrix = matrices[chunk.owner];
  const MuonNumbers muon = numbers->muon[matrix.group];
  const float lr = static_cast<float>(muon.lr * matrix.stretch);
  const float keep = muon.keep, weight = numbers->average_weight;
  for_elements(chunk.count, chunk.at % 4 == 0, [&](auto width, int i) {
    constexpr int W = width.value;
    const auto step = load_floats<W>(o + chunk.x + i);
    auto value = load_floats<W>(arenas.values + chunk.at + i);
#pragma unroll
    for (int j = 0; j < W; ++j) value.v[j] = keep * value.v[j] - lr * step.v[j];
    write_value(arenas, chunk.at + i, chunk.averaged, weight, value);
  });
}

__global__ void __launch_bounds__(kThreads)
    adam_kernel(const Chunk* __restrict__ chunks, Arenas arenas, const Numbers* __restrict__ numbers,
                const Verdict* __restrict__ verdict) {
  if (!verdict->go) return;
  const Chunk chunk = chunks[blockIdx.x];
  const AdamNumbers adam = numbers->adam[chunk.owner];
  const float scale = verdict->scale, weight = numbers->average_weight;
  for_elements(chunk.count, chunk.at % 4 == 0, [&](auto width, int i) {
    constexpr int W = width.value;
    const int64_t at = chunk.at + i;
    auto value = load_floats<W>(arenas.values + at), m = load_floats<W>(arenas.first + at),
         v = load_floats<W>(arenas.second + at);
    const auto g = load_floats<W>(arenas.grads + at);
#pragma unroll
    for (int j = 0; j < W; ++j) value.v[j] = adam_element(adam, value.v[j], scale * g.v[j], m.v[j], v.v[j]);
    store_vec(arenas.first + at, m), store_vec(arenas.second + at, v);
    write_value(arenas, at, chunk.averaged, weight, value);
  });
}

// A table in device memory.
template <class Row>
class Table {
 public:
  Table() = default;
  Table(const Ctx& ctx, const std::vector<Row>& rows)
      : rows_(rows.size()), memory_(rows.size() * sizeof(Row), Device::cuda) {
    bg::copy_bytes(ctx, memory_.data(), Device::cuda, rows.data(), Device::cpu, memory_.size_bytes());
  }
  unsigned size() const { return static_cast<unsigned>(rows_); }
  Row* data() const { return static_cast<Row*>(memory_.data()); }

 private:
  size_t rows_ = 0;
  Buffer memory_;
};

int64_t padded(int64_t n) {
  return ceil_div(n, kMatrixAlign) * kMatrixAlign;
}

void cut(std::vector<Chunk>& chunks, int64_t at, int64_t x, int64_t n, int owner, bool averaged) {
  for (int64_t i = 0; i < n; i += kChunk)
    chunks.push_back({at + i, x + i, static_cast<int>(std::min(kChunk, n - i)), owner, averaged});
}

class Step final : public FusedStep {
 public:
  Step(const Config& config, const Ctx& ctx, ParamTable& params, Tensor first, Tensor second, Tensor ema,
       double ema_weight, Comm* comm)
      : config_(config), ctx_(ctx), comm_(comm), grads_(params.grads()), ema_weight_(ema_weight) {
    const int64_t second_offset = params.range(Mover::adam).first;
    arenas_ = {params.values().ptr<float>(),
               grads_.ptr<float>(),
               first.ptr<float>(),
               second.numel() > 0 ? second.ptr<float>() - second_offset : nullptr,
               ema ? ema.ptr<float>() : nullptr,
               ctx.dtype == DType::bf16 ? params.operands().ptr<bf16>() : nullptr};
    BG_CHECK(second_offset % 4 == 0, "the arenas' groups start at odd places:", second_offset);
    for (const Tensor& t : {params.values(), grads_, first, second, ema, params.operands()})
      BG_CHECK(reinterpret_cast<uint64_t>(t.data()) % 16 == 0, "an arena's address is not a multiple of 16");
    std::vector<std::pair<int64_t, int64_t>> moved;
    lay_out_matrices(params, moved);
    lay_out_adam(params, moved);
    check_all_are_moved(params, moved);
    partial_ = Table<double>(ctx, std::vector<double>(static_cast<size_t>(update_blocks(grads_.numel()))));
    numbers_ = Table<Numbers>(ctx, {Numbers{}});
    verdict_ = Table<Verdict>(ctx, {Verdict{}});
  }

  void prepare(int64_t step, double lr_factor, double momentum) override {
    Numbers n{};
    n.momentum = static_cast<float>(momentum);
    n.average_weight = static_cast<float>(ema_weight_);
    for (int g = 0; g < kNumGroups; ++g) {
      const GroupRates rates = rates_of(config_, kGroups[g].group);
      if (kGroups[g].mover == Mover::muon) {
        const double lr = rates.lr * lr_factor;
        n.muon[g] = {lr, static_cast<float>(1 - lr * rates.weight_decay)};
      } else {
        n.adam[g] = adam_numbers(adam_step_of(config_, rates, step, lr_factor));
      }
    }
    BG_LAUNCH(set_numbers_kernel, 1, 1, 0, ctx_, n, numbers_.data());
  }

  void enqueue(Tensor losses) override {
    const double* loss = nullptr;
    if (losses) {
      BG_CHECK(losses.device() == Device::cuda && losses.is_contiguous(), "losses must lie on the GPU, contiguous");
      loss = losses.ptr<double>();
    }
    enqueue_squares(ctx_, grads_, partial_.data());
    BG_LAUNCH(verdict_kernel, 1, 1024, 0, ctx_, partial_.data(), update_blocks(grads_.numel()), loss,
              losses ? losses.numel() : 0, config_.grad_clip_norm, verdict_.data());
    if (matrix_chunks_.size() > 0) BG_CUDA_FLOATS(ctx_.dtype, X, move_matrices<X>());
    if (adam_chunks_.size() > 0)
      BG_LAUNCH(adam_kernel, adam_chunks_.size(), kThreads, 0, ctx_, adam_chunks_.data(), arenas_, numbers_.data(),
                verdict_.data());
  }

  double norm() override {
    Verdict verdict;
    bg::copy_bytes(ctx_, &verdict, Device::cpu, verdict_.data(), Device::cuda, sizeof(verdict));
    return verdict.norm;
  }

 private:
  // Matrices of one shape that this rank makes orthogonal, side by side in the buffers of Newton-Schulz.
  struct Batch {
    int64_t rows, cols, count, start, of_all_ranks;
  };

  // Both add the element ranges that their launches move to `moved`.
  void lay_out_matrices(const ParamTable& params, std::vector<std::pair<int64_t, int64_t>>& moved) {
    std::map<std::array<int64_t, 2>, std::vector<const ParamSpec*>> shapes;
    for (const ParamSpec& spec : params.specs()) {
      if (mover_of(spec.group) != Mover::muon || spec.shape.numel() == 0) continue;
      BG_CHECK(spec.shape.rank() >= 2, "Muon moves matrices, but", spec.name, "has shape", spec.shape.str());
      shapes[{spec.shape[0], spec.shape.numel() / spec.shape[0]}].push_back(&spec);
    }
    std::vector<std::pair<int64_t, int64_t>> all;
    for (const auto& [shape, specs] : shapes) all.insert(all.end(), specs.size(), {shape[0], shape[1]});
    const int64_t world = comm_ != nullptr ? comm_->world() : 1, own = comm_ != nullptr ? comm_->rank() : 0;
    const std::vector<int> owner = share_out(all, world);
    std::vector<int64_t> filled(static_cast<size_t>(world), 0);
    for (size_t i = 0; i < all.size(); ++i)
      filled[static_cast<size_t>(owner[i])] += padded(all[i].first * all[i].second);
    const int64_t share = all.empty() ? 0 : *std::max_element(filled.begin(), filled.end());  // elements of a rank

    // The buffers: rank by rank, in there shape by shape.
    std::vector<Chunk> chunks;
    std::vector<Matrix> matrices;
    int64_t squares = 0;
    for (int64_t rank = 0; rank < world; ++rank) {
      int64_t x = rank * share;
      size_t number = 0;
      for (const auto& [shape, specs] : shapes) {
        const auto [rows, cols] = shape;
        const int64_t m = std::min(rows, cols), start = x;
        const double stretch = std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(cols)));
        int64_t count = 0;
        for (const ParamSpec* spec : specs) {
          if (owner[number++] != rank) continue;
          const auto first = static_cast<int>(chunks.size()), index = static_cast<int>(matrices.size());
          cut(chunks, spec->offset, x, rows * cols, index, arenas_.ema && spec->averaging == Averaging::on);
          matrices.push_back({first, static_cast<int>(chunks.size()) - first, static_cast<int>(spec->group), stretch});
          x += padded(rows * cols);
          ++count;
        }
        if (rank != own || count == 0) continue;
        batches_.push_back({rows, cols, count, start, static_cast<int64_t>(specs.size())});
        squares = std::max(squares, count * padded(m * m));
      }
    }
    for (const Chunk& c : chunks) moved.emplace_back(c.at, c.at + c.count);
    matrix_chunks_ = Table<Chunk>(ctx_, chunks);
    matrices_ = Table<Matrix>(ctx_, matrices);
    matrix_partial_ = Table<double>(ctx_, std::vector<double>(chunks.size()));
    const size_t element = size_of(ctx_.dtype);
    numel_ = world * share;
    x_ = Buffer(static_cast<size_t>(numel_) * element, Device::cuda);
    other_ = Buffer(static_cast<size_t>(numel_) * element, Device::cuda);
    a_ = Buffer(static_cast<size_t>(squares) * element, Device::cuda);
    s_ = Buffer(static_cast<size_t>(squares) * element, Device::cuda);
  }

  void lay_out_adam(const ParamTable& params, std::vector<std::pair<int64_t, int64_t>>& moved) {
    std::vector<Chunk> chunks;
    for (const GroupRow& row : kGroups) {
      if (row.mover != Mover::adam) continue;
      for (const AveragedRange& r : averaged_ranges(params, row.group))
        cut(chunks, r.lo, 0, r.hi - r.lo, static_cast<int>(row.group), arenas_.ema && r.averaged);
    }
    for (const Chunk& c : chunks) moved.emplace_back(c.at, c.at + c.count);
    adam_chunks_ = Table<Chunk>(ctx_, chunks);
  }

  // `count` matrices that start at element `start` of a buffer, a multiple of kMatrixAlign apart.
  Tensor matrices_of(const Buffer& buffer, int64_t start, int64_t count, int64_t rows, int64_t cols) const {
    char* const data = buffer.at(static_cast<size_t>(start) * size_of(ctx_.dtype));
    return Tensor(data, {count, padded(rows * cols)}, ctx_.dtype, Device::cuda)
        .slice(1, 0, rows * cols)
        .split_last(cols);
  }

  template <class X>
  void move_matrices() {
    X* const x = static_cast<X*>(x_.data());
    BG_LAUNCH(momentum_kernel<X>, matrix_chunks_.size(), kThreads, 0, ctx_, matrix_chunks_.data(), arenas_, x,
              matrix_partial_.data(), numbers_.data(), verdict_.data());
    BG_LAUNCH(normalise_kernel<X>, matrix_chunks_.size(), kThreads, 0, ctx_, matrix_chunks_.data(), matrices_.data(), x,
              matrix_partial_.data(), verdict_.data());
    for (const Batch& b : batches_) {
      const int64_t m = std::min(b.rows, b.cols);
      newton_schulz_iterate(ctx_, config_.newton_schulz_steps, matrices_of(x_, b.start, b.count, b.rows, b.cols),
                            matrices_of(other_, b.start, b.count, b.rows, b.cols), matrices_of(a_, 0, b.count, m, m),
                            matrices_of(s_, 0, b.count, m, m), b.of_all_ranks);
    }
    X* const o = config_.newton_schulz_steps % 2 == 0 ? x : static_cast<X*>(other_.data());
    if (comm_ != nullptr) {
      comm_->all_gather(Tensor(o, {numel_}, ctx_.dtype, Device::cuda));
      comm_->join();
    }
    BG_LAUNCH(decayed_kernel<X>, matrix_chunks_.size(), kThreads, 0, ctx_, matrix_chunks_.data(), matrices_.data(),
              static_cast<const X*>(o), arenas_, numbers_.data(), verdict_.data());
  }

  const Config config_;
  Ctx ctx_;
  Comm* comm_;
  Tensor grads_;
  double ema_weight_;
  int64_t numel_ = 0;  // elements of the buffers of Newton-Schulz
  Arenas arenas_{};
  std::vector<Batch> batches_;
  Table<Chunk> matrix_chunks_, adam_chunks_;
  Table<Matrix> matrices_;
  Table<double> partial_, matrix_partial_;
  Table<Numbers> numbers_;
  Table<Verdict> verdict_;
  Buffer x_, other_;  // Newton-Schulz goes back and forth between them
  Buffer a_, s_;      // of one shape at a time
};

}  // namespace

void make_fused_step(const Config& config, const Ctx& ctx, ParamTable& params, Tensor first, Tensor second, Tensor ema,
                     double ema_weight, Comm* comm, std::unique_ptr<FusedStep>& out) {
  out = std::make_unique<Step>(config, ctx, params, first, second, ema, ema_weight, comm);
}

}  // namespace bg::cuda
