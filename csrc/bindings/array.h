// A view of the core's memory that other libraries can share without a copy: bytegolf.Array.
#pragma once

#include <memory>

#include "bindings/bindings.h"
#include "tensor/tensor.h"

namespace bg::bindings {

/// `owner` keeps the memory of `tensor` (contiguous); `ctx` is the context whose work writes it. Neither needs
/// Python, so that the last holder of the memory may release it on any thread.
struct Array {
  Tensor tensor;
  std::shared_ptr<const void> owner;
  Ctx ctx;
  bool read_only = false;
};

}  // namespace bg::bindings
