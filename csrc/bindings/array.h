// A view of the core's memory that other libraries can take over without a copy: bytegolf.Array.
#pragma once

#include <memory>

#include "bindings/bindings.h"
#include "tensor/tensor.h"

namespace bg::bindings {

/// `owner` keeps the memory of `tensor` (contiguous); `ctx` is whose work writes it. Neither needs Python, so that
/// whoever holds the memory last may let it go on any thread.
struct Array {
  Tensor tensor;
  std::shared_ptr<const void> owner;
  Ctx ctx;
  bool read_only = false;
};

}  // namespace bg::bindings
