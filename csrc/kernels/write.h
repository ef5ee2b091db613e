// What a kernel does with the values already in its output.
#pragma once

#include <cstdint>

namespace bg {

enum class Write : uint8_t { set, add };

}  // namespace bg
