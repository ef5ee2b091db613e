// What the float32 attention kernels agree on: the sizes of blocks, the operands, and which keys a query sees.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/tensor.h"

namespace bg::cpu {

constexpr int64_t kKeyBlock = 96;      // keys whose scores are in cache at once; a multiple of every tile height
constexpr float kLog2e = 1.44269504f;  // scores are kept in units of log 2, so that the exponential is 2^x
constexpr double kLn2 = 0.69314718055994531;

/// A (B, T, heads, d) float32 operand with its strides, in elements.
struct HeadRows {
  float* data = nullptr;
  int64_t row = 0, head = 0, batch = 0;
  HeadRows() = default;
  explicit HeadRows(const Tensor& x) : data(x.ptr<float>()), row(x.stride(1)), head(x.stride(2)), batch(x.stride(0)) {}
  float* at(int64_t b, int64_t t, int64_t h) const { return data + b * batch + t * row + h * head; }
};

/// One call of attention, with everything checked.
struct AttentionArgs {
  int64_t B, T, H, G, d, window;
  const int32_t* doc_start;  // (B, T) or null
  HeadRows q, k, v, y, dy, dq, dk, dv;
  float* lse;  // (B, H, T)
  float* scratch;
  float scale;  // 1/sqrt(d)

  int64_t group(int64_t h) const { return h / (H / G); }
  int64_t first_key(int64_t b, int64_t t) const {
    const int64_t by_window = window ? std::max<int64_t>(0, t - window + 1) : 0;
    return doc_start ? std::max<int64_t>(by_window, doc_start[b * T + t]) : by_window;
  }
};

/// How backward cuts the keys: chunk c holds keys c * size .. ; at most four, so that memory stays proportional to T.
struct KeyChunks {
  int64_t count, size;
  explicit KeyChunks(int64_t T)
      : count(std::min<int64_t>(4, (T + 1023) / 1024)),
        size(((T + count - 1) / count + kKeyBlock - 1) / kKeyBlock * kKeyBlock) {
    count = (T + size - 1) / size;
  }
};

}  // namespace bg::cpu
