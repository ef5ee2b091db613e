#include "kernels/smear.h"

#include <gtest/gtest.h>

#include <cmath>

#include "testing/op_case.h"

namespace bg {
namespace {

OpCase smear(int64_t B, int64_t T, int64_t D) {
  OpCase c;
  c.name = words("smear", B, T, D);
  c.inputs = {{"x", {B, T, D}}, parameter("gate", {D})};
  c.outputs = {{{B, T, D}}};
  c.forward = [](OpRun& r) { smear_forward(r.ctx, r.in[0], r.in[1], r.out[0]); };
  c.backward = [](OpRun& r) { smear_backward(r.ctx, r.in[0], r.in[1], r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> y;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t t = 0; t < T; ++t)
        for (int64_t i = 0; i < D; ++i) {
          const double g = 1 / (1 + std::exp(-in[1][i])), before = t == 0 ? 0 : in[0][(b * T + t - 1) * D + i];
          y.push_back((1 - g) * in[0][(b * T + t) * D + i] + g * before);
        }
    return Lists{y};
  };
  return c;
}

std::vector<OpCase> small() {
  return {smear(1, 1, 1), smear(3, 1, 17), smear(1, 2, 3), smear(3, 7, 17), smear(2, 70, 5)};
}
std::vector<OpCase> large() {
  return {smear(2, 160, 512), smear(3, 101, 67)};
}

std::vector<OpCase> cuda() {
  return {smear(3, 700, 512), smear(2, 1001, 256), smear(2, 301, 100), smear(3, 333, 12), smear(2, 400, 5)};
}

BG_PROVE_OP(Smear, small(), large())
BG_PROVE_CUDA(Smear, cuda())

}  // namespace
}  // namespace bg
