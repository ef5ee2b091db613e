#include "bindings/foreign.h"

#include "base/check.h"
#include "bindings/dlpack.h"

namespace bg::bindings {
namespace {

using Dims = std::vector<int64_t>;

Dims c_order(const Dims& shape) {
  Dims strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= shape[i]) strides[i] = step;
  return strides;
}

bool is_bfloat16(const py::dtype& t) {
  return t.itemsize() == 2 && py::str(t.attr("name")).cast<std::string>() == "bfloat16";  // of the package ml_dtypes
}

std::optional<DType> dtype_of(char kind, py::ssize_t size) {
  if (kind == 'f' && size == 2) return DType::f16;
  if (kind == 'f' && size == 4) return DType::f32;
  if (kind == 'f' && size == 8) return DType::f64;
  if (kind == 'i' && size == 1) return DType::i8;
  if (kind == 'i' && size == 4) return DType::i32;
  if (kind == 'i' && size == 8) return DType::i64;
  if (kind == 'u' && size == 1) return DType::u8;
  if (kind == 'u' && size == 2) return DType::u16;
  return std::nullopt;
}

py::dtype numpy_dtype_of(DType t) {
  return t == DType::bf16 ? py::dtype::of<uint16_t>() : py::dtype(name_of(t));
}

Borrowed borrow_numpy(const py::array& a) {
  Borrowed out;
  out.owner = a;
  out.data = static_cast<const char*>(a.data());
  out.shape.assign(a.shape(), a.shape() + a.ndim());
  const bool native = a.dtype().byteorder() == '=' || a.dtype().byteorder() == '|';
  out.dtype = is_bfloat16(a.dtype()) ? DType::bf16 : native ? dtype_of(a.dtype().kind(), a.itemsize()) : std::nullopt;
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    if (a.strides(i) % a.itemsize() != 0) out.dtype.reset();  // a field of a record, say: NumPy reads it
    out.strides.push_back(a.strides(i) / a.itemsize());
  }
  return out;
}

// An unsigned or boolean type that only NumPy knows keeps its width; the array it becomes is NumPy's.
py::array wrap(const dlpack::DLArray& t, const char* data, const Dims& shape, const Dims& strides,
               const py::object& owner) {
  const std::string kind = t.dtype.code == dlpack::kBool ? "?" : "u" + std::to_string(t.dtype.bits / 8);
  Dims bytes = strides;
  for (int64_t& s : bytes) s *= t.dtype.bits / 8;
  return py::array(py::dtype(kind), shape, bytes, data, owner);
}

Borrowed read_dlpack(const dlpack::DLArray& t, const py::object& owner, const std::string& what) {
  Borrowed out;
  out.owner = owner;
  BG_CHECK(t.ndim >= 0 && t.ndim <= 64 && (t.ndim == 0 || t.shape != nullptr), what, "is a damaged DLPack array");
  out.shape.assign(t.shape, t.shape + t.ndim);
  out.strides = t.strides == nullptr ? c_order(out.shape) : Dims(t.strides, t.strides + t.ndim);
  for (int64_t n : out.shape) BG_CHECK(n >= 0, what, "is a damaged DLPack array");
  out.data = static_cast<const char*>(t.data) + t.byte_offset;
  const bool on_cpu = t.device.type == dlpack::kCpu || t.device.type == dlpack::kCudaHost;
  BG_CHECK(on_cpu || t.device.type == dlpack::kCuda || t.device.type == dlpack::kCudaManaged, what,
           "is on a device that is neither the CPU nor a CUDA GPU (DLPack's number", t.device.type, ")");
  out.device = on_cpu ? Device::cpu : Device::cuda;
  out.index = t.device.index;
  const uint8_t code = t.dtype.code, bits = t.dtype.bits;
  const bool known = t.dtype.lanes == 1 && bits % 8 == 0 &&
                     (code == dlpack::kInt || code == dlpack::kUInt || code == dlpack::kFloat ||
                      (code == dlpack::kBfloat && bits == 16) || (code == dlpack::kBool && bits == 8));
  BG_CHECK(known, what, "holds numbers of a type that is not read: DLPack's code", int{code}, "of", int{bits}, "bits");
  if (code == dlpack::kBfloat)
    out.dtype = DType::bf16;
  else if (code != dlpack::kBool)
    out.dtype = dtype_of(code == dlpack::kInt ? 'i' : code == dlpack::kUInt ? 'u' : 'f', bits / 8);
  if (!out.dtype) {
    const bool ours = on_cpu && ((code == dlpack::kUInt && (bits == 32 || bits == 64)) || code == dlpack::kBool);
    BG_CHECK(ours, what, "holds numbers of a type that is not read: DLPack's code", int{code}, "of", int{bits}, "bits");
    out.owner = wrap(t, out.data, out.shape, out.strides, owner);
  }
  return out;
}

// The array inside a capsule, which from now on is ours to delete.
template <class M>
std::optional<Borrowed> take(const py::capsule& capsule, const std::string& what) {
  if (!PyCapsule_IsValid(capsule.ptr(), M::kName)) return std::nullopt;
  auto* managed = static_cast<M*>(PyCapsule_GetPointer(capsule.ptr(), M::kName));
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>)
    BG_CHECK(managed->major == dlpack::kMajor, what, "comes in version", managed->major, "of DLPack; read are 0 and 1");
  const py::capsule owner(managed, [](void* p) {
    auto* m = static_cast<M*>(p);
    if (m->deleter != nullptr) m->deleter(m);
  });
  if (PyCapsule_SetName(capsule.ptr(), M::kUsedName) != 0) throw py::error_already_set();
  return read_dlpack(managed->array, owner, what);
}

Borrowed borrow_dlpack(const py::handle& from, const std::string& what, const Ctx* reader) {
  const auto [type, index] = from.attr("__dlpack_device__")().cast<std::pair<int64_t, int64_t>>();
  StreamHandle stream = 0;
  py::dict asked;
  if (type == dlpack::kCuda || type == dlpack::kCudaManaged) {
    if (reader && reader->device == Device::cuda && index == device_index(*reader)) stream = stream_handle(*reader);
    asked["stream"] = stream == 0 ? StreamHandle{1} : stream;  // DLPack does not allow 0
  }
  py::object given;
  try {
    given = from.attr("__dlpack__")(**asked, py::arg("max_version") = py::make_tuple(dlpack::kMajor, dlpack::kMinor));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    given = from.attr("__dlpack__")(**asked);  // made before version 1
  }
  BG_CHECK(PyCapsule_CheckExact(given.ptr()), what, "gave no DLPack capsule");
  const auto capsule = py::reinterpret_borrow<py::capsule>(given);
  auto out = take<dlpack::ManagedVersioned>(capsule, what);
  if (!out) out = take<dlpack::Managed>(capsule, what);
  BG_CHECK(out.has_value(), what, "gave a DLPack capsule that is used up or unknown");
  out->stream = stream;
  return *out;
}

// CUDA's array interface (https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html).
Borrowed borrow_cuda(const py::handle& from, const std::string& what) {
  const py::dict d = from.attr("__cuda_array_interface__");
  Borrowed out;
  out.owner = py::reinterpret_borrow<py::object>(from);
  out.device = Device::cuda;
  out.shape = d["shape"].cast<Dims>();
  const auto typestr = d["typestr"].cast<std::string>();
  BG_CHECK(typestr.size() >= 3 && typestr[0] != '>', what, "holds numbers of type", typestr);
  const py::ssize_t size = typestr.size() == 3 ? typestr[2] - '0' : 0;
  out.dtype = dtype_of(typestr[1], size);
  BG_CHECK(out.dtype.has_value(), what, "holds numbers of a type that is not read:", typestr);
  out.data = reinterpret_cast<const char*>(d["data"].cast<py::tuple>()[0].cast<uintptr_t>());
  out.strides = c_order(out.shape);
  if (d.contains("strides") && !d["strides"].is_none()) {
    out.strides = d["strides"].cast<Dims>();
    BG_CHECK(out.strides.size() == out.shape.size(), what, "has strides for other dimensions than its shape");
    for (int64_t& s : out.strides) {
      BG_CHECK(s % size == 0, what, "has strides that are no whole elements");
      s /= size;
    }
  }
  // The interface does not name the GPU, but CUDA knows it from the pointer. Work may still be on this stream.
  if (d.contains("stream") && !d["stream"].is_none()) out.stream = d["stream"].cast<StreamHandle>();
  return out;
}

// First and last element that the strides reach, as offsets in elements.
std::pair<int64_t, int64_t> extent(const Borrowed& b) {
  int64_t low = 0, high = 0;
  for (size_t i = 0; i < b.shape.size(); ++i) {
    if (b.shape[i] == 0) return {0, -1};
    (b.strides[i] < 0 ? low : high) += (b.shape[i] - 1) * b.strides[i];
  }
  return {low, high};
}

}  // namespace

bool Borrowed::is_contiguous() const {
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0; step *= shape[i])
    if (shape[i] != 1 && strides[i] != step) return false;
  return true;
}

Borrowed borrow(const py::handle& from, const std::string& what, const Ctx* reader) {
  if (py::isinstance<py::array>(from)) return borrow_numpy(py::reinterpret_borrow<py::array>(from));
  try {
    if (py::hasattr(from, "__dlpack__") && py::hasattr(from, "__dlpack_device__"))
      return borrow_dlpack(from, what, reader);
    if (py::hasattr(from, "__cuda_array_interface__")) return borrow_cuda(from, what);
    return borrow_numpy(py::module_::import("numpy").attr("asarray")(from));
  } catch (py::error_already_set& error) {  // the other library's message, after ours
    if (!error.matches(PyExc_Exception)) throw;
    throw InvalidArgument(what + " cannot be read: " + py::str(error.value()).cast<std::string>());
  } catch (const py::cast_error&) {
    throw InvalidArgument(what + " cannot be read: its array interface is malformed");
  }
}

py::array host_array(const Borrowed& from) {
  if (!from.dtype) return py::reinterpret_borrow<py::array>(from.owner);
  const DType dtype = *from.dtype;
  const auto size = static_cast<int64_t>(size_of(dtype));
  Dims bytes = from.strides;
  for (int64_t& s : bytes) s *= size;
  py::array out;
  if (from.device == Device::cuda) {
    // Everything between the first and the last element in one copy, then the same strides over it.
    const auto [low, high] = extent(from);
    const int64_t elements = high - low + 1;
    py::array memory(numpy_dtype_of(dtype), Dims{elements});
    const auto n = static_cast<size_t>(elements * size);
    void* to = memory.mutable_data();
    {
      const py::gil_scoped_release release;
      read_device(from.index, from.stream, to, from.data + low * size, n);
    }
    out = py::array(numpy_dtype_of(dtype), from.shape, bytes, static_cast<const char*>(to) - low * size, memory);
  } else if (py::isinstance<py::array>(from.owner) && dtype != DType::bf16) {
    return py::reinterpret_borrow<py::array>(from.owner);
  } else {
    out = py::array(numpy_dtype_of(dtype), from.shape, bytes, from.data, from.owner);
    out.attr("setflags")(py::arg("write") = false);
  }
  if (dtype != DType::bf16) return out;
  // bfloat16 is the upper half of a float32.
  const py::object wide = out.attr("astype")("uint32").attr("__lshift__")(py::cast(16));
  return wide.attr("astype")("uint32").attr("view")("float32");
}

}  // namespace bg::bindings
