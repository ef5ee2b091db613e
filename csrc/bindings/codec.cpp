// Quantisation and the artifact container, for Python: arrays in, fresh arrays out, the GIL released during work.
#include <cstring>
#include <memory>

#include "base/half.h"
#include "bindings/bindings.h"
#include "bindings/paths.h"
#include "codec/artifact.h"
#include "codec/quantise.h"

namespace bg::bindings {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

std::vector<int64_t> dims_of(const py::array& a) {
  return {a.shape(), a.shape() + a.ndim()};
}

py::array half_array(const std::vector<int64_t>& dims, const std::vector<uint16_t>& bits) {
  py::array out(py::dtype("float16"), dims);
  if (!bits.empty()) std::memcpy(out.mutable_data(), bits.data(), bits.size() * sizeof(uint16_t));
  return out;
}

py::tuple quantise_one(const std::string& name, const FloatArray& weights, const std::string& codec,
                       const std::string& scheme, int threads) {
  const std::vector<int64_t> dims = dims_of(weights);
  const std::span<const float> w(weights.data(), static_cast<size_t>(weights.size()));
  const Codec declared = codec_of(codec);
  const Scheme kind = scheme_of(scheme);
  QuantisedTensor t;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    t = quantise(pool, name, w, dims, declared, kind);
  }
  if (!t.is_quantised) return py::make_tuple(half_array(dims, t.half), py::none());
  py::array_t<int8_t> q(dims);
  std::memcpy(q.mutable_data(), t.q.data(), t.q.size());
  const std::vector<int64_t> scale_dims = dims.size() < 2 ? std::vector<int64_t>{} : std::vector<int64_t>{dims[0]};
  return py::make_tuple(q, half_array(scale_dims, t.scale));
}

py::array_t<float> dequantise_one(const py::array_t<int8_t, py::array::c_style>& q, const py::array& scale,
                                  int threads) {
  if (!scale.dtype().is(py::dtype("float16")) || !(scale.flags() & py::array::c_style)) {
    throw py::value_error("scale must be a contiguous float16 array");
  }
  py::array_t<float> out(dims_of(q));
  const std::span<const int8_t> in(q.data(), static_cast<size_t>(q.size()));
  const std::span<const uint16_t> steps(static_cast<const uint16_t*>(scale.data()), static_cast<size_t>(scale.size()));
  const std::span<float> result(out.mutable_data(), in.size());
  const py::gil_scoped_release release;
  ThreadPool pool(threads);
  dequantise(pool, in, steps, result);
  return out;
}

DType dtype_of(const std::string& name) {
  for (DType t :
       {DType::f32, DType::f64, DType::f16, DType::bf16, DType::i8, DType::i32, DType::u16, DType::u8, DType::i64}) {
    if (name == name_of(t)) return t;
  }
  throw py::value_error("arrays of " + name + " cannot be stored");
}

using ByteArray = py::array_t<uint8_t, py::array::c_style>;
using TensorTuple = std::tuple<std::string, std::string, std::vector<int64_t>, ByteArray>;  // name, dtype, shape, bytes

size_t write_tensors(const PathBytes& path, const std::vector<TensorTuple>& tensors, const std::string& config,
                     int threads) {
  std::vector<TensorView> views;
  for (const auto& [name, dtype, dims, bytes] : tensors) {
    views.push_back({name, dtype_of(dtype), dims, {bytes.data(), static_cast<size_t>(bytes.size())}});
  }
  const py::gil_scoped_release release;
  ThreadPool pool(threads);
  return write_artifact(pool, path.bytes, views, config);
}

py::dict read_tensors(const PathBytes& path, int threads) {
  Artifact artifact;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    artifact = read_artifact(pool, path.bytes);
  }
  py::list tensors;
  for (StoredTensor& t : artifact.tensors) {
    // The array takes over the bytes: no copy.
    auto owned = std::make_unique<Bytes>(std::move(t.bytes));
    py::capsule owner(owned.get(), [](void* p) { delete static_cast<Bytes*>(p); });
    Bytes* bytes = owned.release();
    const py::array_t<uint8_t> array(static_cast<py::ssize_t>(bytes->size()), bytes->data(), owner);
    py::dict row;
    row["name"] = t.name;
    row["dtype"] = name_of(t.dtype);
    row["shape"] = py::tuple(py::cast(t.dims));
    row["coding"] = name_of(t.coding);
    row["stored_bytes"] = t.stored_bytes;
    row["bytes"] = array;
    tensors.append(row);
  }
  py::dict out;
  out["config"] = artifact.config;
  out["tensors"] = tensors;
  out["file_bytes"] = artifact.file_bytes;
  out["frame_bytes"] = artifact.frame_bytes;
  out["model_bytes"] = artifact.model_bytes;
  return out;
}

}  // namespace

void bind_codec(py::module_& m) {
  m.def(
      "quantise_tensor", &quantise_one, py::arg("name"), py::arg("weights"), py::arg("codec"), py::arg("scheme"),
      py::arg("threads") = 0,
      "(int8 array, float16 scales) of a float32 tensor, or (float16 array, None) when it stays float. `codec` is what "
      "its declaration says: matrix or other.");
  m.def("dequantise_tensor", &dequantise_one, py::arg("q"), py::arg("scale"), py::arg("threads") = 0,
        "float32 array q * scale, row by row.");
  m.def("write_artifact", &write_tensors, py::arg("path"), py::arg("tensors"), py::arg("config"),
        py::arg("threads") = 0,
        "Writes (name, dtype, shape, uint8 bytes) tuples as an artifact, atomically; returns its bytes.");
  m.def("read_artifact", &read_tensors, py::arg("path"), py::arg("threads") = 0,
        "An artifact as a dict: config, tensors (name, dtype, shape, coding, stored_bytes, bytes), file_bytes, "
        "frame_bytes, model_bytes.");
}

}  // namespace bg::bindings
