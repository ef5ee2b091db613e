// How tensors cross to NumPy and back: copies for devices that NumPy cannot read, bf16 as float32.
#pragma once

#include <algorithm>
#include <vector>

#include "bindings/bindings.h"
#include "tensor/transfer.h"

namespace bg::bindings {

using Ids = py::array_t<int32_t, py::array::c_style>;

inline std::vector<py::ssize_t> dims_of(const Shape& shape) {
  std::vector<py::ssize_t> out;
  for (int i = 0; i < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

inline Shape shape_of(const py::array& a, const char* what) {
  BG_CHECK(a.ndim() <= Shape::kMaxRank, what, "has", a.ndim(), "dimensions");
  Shape shape;
  for (py::ssize_t i = 0; i < a.ndim(); ++i) shape.push_back(a.shape(i));
  return shape;
}

/// float32 for float32 and bfloat16; float64 and int32 as they are.
inline py::dtype numpy_dtype(DType dtype) {
  if (dtype == DType::i32) return py::dtype::of<int32_t>();
  return dtype == DType::f64 ? py::dtype::of<double>() : py::dtype::of<float>();
}

/// A fresh array of a contiguous float tensor's values. Waits for the context's work.
inline py::array copy_of(const Ctx& ctx, Tensor t) {
  py::array out(numpy_dtype(t.dtype()), dims_of(t.shape()));
  if (t.dtype() == DType::bf16) {
    const std::vector<double> values = download(ctx, t);
    std::transform(values.begin(), values.end(), static_cast<float*>(out.mutable_data()),
                   [](double v) { return static_cast<float>(v); });
  } else {
    copy_bytes(ctx, out.mutable_data(), Device::cpu, t.data(), t.device(), t.size_bytes());
  }
  return out;
}

inline DType dtype_named(const std::string& name) {
  for (DType t : {DType::f32, DType::f64, DType::bf16})
    if (name == name_of(t)) return t;
  throw InvalidArgument("unknown dtype " + name + "; known: float32, float64 (cpu), bfloat16 (cuda)");
}

inline Device device_named(const std::string& name) {
  BG_CHECK(name == "cpu" || name == "cuda", "unknown device", name, "; known: cpu, cuda");
  return name == "cuda" ? Device::cuda : Device::cpu;
}

/// A context from words: device "cpu", "cuda" or "cuda:1" (the GPU's number among the visible ones).
inline Ctx ctx_named(const std::string& device, const std::string& dtype, int threads) {
  const auto colon = device.find(':');
  const std::string kind = device.substr(0, colon),
                    number = colon == std::string::npos ? "0" : device.substr(colon + 1);
  const bool is_number = !number.empty() && number.size() < 5 && number.find_first_not_of("0123456789") == number.npos;
  BG_CHECK(is_number && (colon == std::string::npos || kind == "cuda"), "unknown device", device,
           "; known: cpu, cuda, cuda:NUMBER");
  return make_ctx(device_named(kind), dtype_named(dtype), threads, std::stoi(number));
}

}  // namespace bg::bindings
