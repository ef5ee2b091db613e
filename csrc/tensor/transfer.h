// Numbers between host containers and tensors of any dtype on any device.
#pragma once

#include <span>
#include <vector>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

/// t = values, rounded to its dtype (float32, float64 or bfloat16, to nearest even). t contiguous, of that many
/// elements.
void upload(const Ctx& ctx, std::span<const double> values, Tensor t);
/// The values of a contiguous float tensor. Waits for the context's work.
std::vector<double> download(const Ctx& ctx, Tensor t);

}  // namespace bg
