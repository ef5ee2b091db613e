// Which names, first values and stacks the two published programs have: what option `family` decides.
#pragma once

#include "base/config.h"
#include "model/linear_init.h"
#include "model/spec.h"

namespace bg {

/// Beside the names in StackSpec.
struct FamilyNames {
  const char* smear_gate;
  const char* bigram;  // prefix
};
inline FamilyNames names_of(const Config& c) {
  return c.family == "byte260" ? FamilyNames{"smear.gate", "bigram"} : FamilyNames{"smear_gate.gate", "bigram_hash"};
}

/// The stack of blocks that the options of a flat model describe.
StackSpec stack_of(const Config& config);

}  // namespace bg
