#include "kernels/chunk_shift.h"

#include <gtest/gtest.h>

#include "testing/op_case.h"

namespace bg {
namespace {

OpCase shift(int64_t B, int64_t C, int64_t L) {
  OpCase c;
  c.name = words("chunk_shift", B, C, L);
  c.inputs = {{"z", {B, C, L}, Write::add}, parameter("start", {L})};
  c.outputs = {{{B, C, L}}};
  c.forward = [](OpRun& r) { chunk_shift_forward(r.ctx, r.in[0], r.in[1], r.out[0]); };
  c.backward = [](OpRun& r) { chunk_shift_backward(r.ctx, r.dout[0], r.din[0], r.din[1]); };
  c.formula = [=](const Lists& in) {
    std::vector<double> out;
    for (int64_t b = 0; b < B; ++b)
      for (int64_t chunk = 0; chunk < C; ++chunk)
        for (int64_t i = 0; i < L; ++i) out.push_back(chunk == 0 ? in[1][i] : in[0][(b * C + chunk - 1) * L + i]);
    return Lists{out};
  };
  return c;
}

std::vector<OpCase> small_shifts() {
  return {shift(1, 1, 1), shift(3, 1, 17), shift(1, 5, 3), shift(3, 7, 17)};
}
std::vector<OpCase> large_shifts() {
  return {shift(8, 33, 256)};
}

BG_PROVE_OP(ChunkShift, small_shifts(), large_shifts())
BG_PROVE_CUDA(ChunkShift, (std::vector<OpCase>{shift(3, 400, 256), shift(3, 401, 100), shift(300, 2, 5)}))

}  // namespace
}  // namespace bg
