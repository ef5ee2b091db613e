// How a model writes: one byte after another, drawn from its own distribution.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "model/model.h"

namespace bg {

/// n bytes that follow `prompt`. temperature 0 takes the likeliest byte; draws depend on (seed, position) alone. A
/// family with bos starts with it; special ids are never drawn. When the window is full the oldest quarter is
/// forgotten. Throws NumericsError when a logit is not finite. `emit` (may be empty) receives each byte and may return
/// false to stop.
std::string generate(Model& model, std::string_view prompt, int64_t n, double temperature, uint64_t seed,
                     const std::function<bool(uint8_t)>& emit = {});

}  // namespace bg
