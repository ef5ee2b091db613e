// How arrays of other libraries come in: NumPy's, DLPack's (torch, CuPy, JAX) and those of CUDA's array interface, all
// borrowed alike.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/streams.h"
#include "bindings/bindings.h"
#include "tensor/tensor.h"

namespace bg::bindings {

/// Memory of another library, valid as long as `owner` is. Numbers that the core has no dtype for stay NumPy's: `dtype`
/// is then empty, and `owner` the array.
struct Borrowed {
  const char* data = nullptr;
  std::vector<int64_t> shape, strides;  // strides in elements
  std::optional<DType> dtype;
  Device device = Device::cpu;
  int index = 0;            // of the GPU
  StreamHandle stream = 0;  // the memory may be read after what is enqueued on this stream
  py::object owner;

  bool is_contiguous() const;
};

/// Borrows `from`, whatever library made it; anything but an array goes through numpy.asarray. `reader`: the context
/// that will read it; an array on the reader's GPU is ordered before the reader's stream. Throws InvalidArgument naming
/// `what` when it cannot be read.
Borrowed borrow(const py::handle& from, const std::string& what, const Ctx* reader = nullptr);

/// The values as NumPy's array: host memory is shared (read-only, unless it already is a NumPy array), a GPU's
/// copied, bfloat16 widened to float32.
py::array host_array(const Borrowed& from);

}  // namespace bg::bindings
