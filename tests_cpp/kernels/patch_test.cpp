#include "kernels/patch.h"

#include <gtest/gtest.h>

#include "testing/op_case.h"

namespace bg {
namespace {

// e[b,t,c], zero before the row.
double at(const std::vector<double>& e, int64_t T, int64_t E, int64_t b, int64_t t, int64_t c) {
  return t < 0 ? 0 : e[(b * T + t) * E + c];
}

OpCase unfold(int64_t B, int64_t J, int64_t K, int64_t E) {
  const int64_t T = J * K;
  OpCase c;
  c.name = words("patch_unfold", B, J, K, E);
  c.inputs = {{"e", {B, T, E}, Write::add}};
  c.outputs = {{{B, J, E * K}}};
  c.forward = [=](OpRun& r) { patch_unfold_forward(r.ctx, r.in[0], K, r.out[0]); };
  c.backward = [=](OpRun& r) { patch_unfold_backward(r.ctx, r.dout[0], K, r.din[0]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t j = 0; j < J; ++j)
        for (int64_t e = 0; e < E; ++e)
          for (int64_t i = 0; i < K; ++i) out.push_back(at(in[0], T, E, b, j * K - K + 1 + i, e));
    return Lists{out};
  };
  return c;
}

OpCase conv(int64_t B, int64_t J, int64_t K, int64_t D) {
  const int64_t T = J * K;
  OpCase c;
  c.name = words("patch_conv", B, J, K, D);
  c.inputs = {{"s", {B, T, D}}, parameter("w", {D, 1, K})};
  c.outputs = {{{B, T, D}}};
  c.forward = [](OpRun& r) { patch_conv_forward(r.ctx, r.in[0], r.in[1], r.out[0]); };
  c.backward = [](OpRun& r) { patch_conv_backward(r.ctx, r.in[0], r.in[1], r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < D; ++i) {
          double sum = 0;
          for (int64_t k = 0; k < K; ++k) {
            const int64_t from = t - K + 1 + k;
            if (from >= t / K * K) sum += in[1][i * K + k] * in[0][(b * T + from) * D + i];
          }
          out.push_back(sum);
        }
    return Lists{out};
  };
  return c;
}

template <class Make>
std::vector<OpCase> small(Make make) {
  return {make(1, 1, 1, 1), make(3, 1, 2, 3), make(1, 3, 3, 17), make(3, 5, 4, 5), make(2, 2, 7, 3)};
}
template <class Make>
std::vector<OpCase> large(Make make) {
  return {make(2, 40, 4, 128), make(1, 33, 3, 67)};
}

template <class Make>
std::vector<OpCase> cuda(Make make) {
  return {make(2, 500, 4, 512), make(3, 301, 3, 100), make(2, 77, 11, 5), make(1, 100, 8, 256)};
}

BG_PROVE_CUDA(PatchUnfold, cuda(unfold))
BG_PROVE_CUDA(PatchConv, cuda(conv))
BG_PROVE_OP(PatchUnfold, small(unfold), large(unfold))
BG_PROVE_OP(PatchConv, small(conv), large(conv))

}  // namespace
}  // namespace bg
