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

// What is known of a tensor before its bytes are decoded.
py::dict facts_of(const StoredTensor& t) {
  py::dict row;
  row["name"] = t.name;
  row["dtype"] = name_of(t.dtype);
  row["shape"] = py::tuple(py::cast(t.dims));
  row["coding"] = name_of(t.coding);
  return row;
}

py::dict decoded(const ArtifactReader& reader, Keep keep, int threads) {
  Artifact artifact;
  {
    const py::gil_scoped_release release;
    ThreadPool pool(threads);
    artifact = reader.read(pool, keep);
  }
  py::list tensors;
  for (StoredTensor& t : artifact.tensors) {
    py::dict row = facts_of(t);
    row["stored_bytes"] = t.stored_bytes;
    if (keep == Keep::bytes) {
      // The array takes over the bytes: no copy.
      auto owned = std::make_unique<Bytes>(std::move(t.bytes));
      py::capsule owner(owned.get(), [](void* p) { delete static_cast<Bytes*>(p); });
      Bytes* bytes = owned.release();
      row["bytes"] = py::array_t<uint8_t>(static_cast<py::ssize_t>(bytes->size()), bytes->data(), owner);
    }
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
  m.attr("MAX_DECODED_BYTES") = kMaxDecodedBytes;
  py::class_<ArtifactReader>(m, "ArtifactReader", "An artifact in two steps: what its front says, then its tensors.")
      .def(py::init([](const PathBytes& path, uint64_t max_decoded_bytes) {
             const py::gil_scoped_release release;
             return std::make_unique<ArtifactReader>(path.bytes, max_decoded_bytes);
           }),
           py::arg("path"), py::arg("max_decoded_bytes") = kMaxDecodedBytes,
           "Checks the file's front and checksum. FormatError naming path and offset, also when all tensors together "
           "unpack to more than max_decoded_bytes; OSError when it cannot be read.")
      .def_property_readonly(
          "config", [](const ArtifactReader& self) { return self.front().config; }, "The configuration text.")
      .def_property_readonly(
          "tensors",
          [](const ArtifactReader& self) {
            py::list out;
            for (const StoredTensor& t : self.front().tensors) out.append(facts_of(t));
            return out;
          },
          "One dict per tensor: name, dtype, shape, coding. Nothing is decoded for it.")
      .def(
          "read", [](const ArtifactReader& self, int threads) { return decoded(self, Keep::bytes, threads); },
          py::arg("threads") = 0,
          "A dict: config, tensors (name, dtype, shape, coding, stored_bytes, bytes), file_bytes, frame_bytes, "
          "model_bytes.")
      .def(
          "check", [](const ArtifactReader& self, int threads) { return decoded(self, Keep::nothing, threads); },
          py::arg("threads") = 0, "The same without bytes: everything is decoded and checked, nothing is kept.");
}

}  // namespace bg::bindings
