// How the core's memory leaves: DLPack, the buffer protocol, and the array interfaces of NumPy and CUDA.
#include "bindings/array.h"

#include <memory>
#include <optional>

#include "base/streams.h"
#include "bindings/arrays.h"
#include "bindings/dlpack.h"
#include "bindings/foreign.h"
#include "tensor/buffer.h"

namespace bg::bindings {
namespace {

using dlpack::DLDevice;

[[noreturn]] void refuse(PyObject* kind, const std::string& message) {
  PyErr_SetString(kind, message.c_str());
  throw py::error_already_set();
}

DLDevice device_of(const Array& a) {
  if (a.tensor.device() == Device::cpu) return {dlpack::kCpu, 0};
  return {dlpack::kCuda, device_index(a.ctx)};
}

dlpack::DLType type_of(DType t) {
  const auto bits = static_cast<uint8_t>(8 * size_of(t));
  const bool is_float = t == DType::f32 || t == DType::f64;
  BG_CHECK(is_float || t == DType::bf16 || t == DType::i32, "arrays of", name_of(t), "do not leave the core");
  return {is_float ? dlpack::kFloat : t == DType::bf16 ? dlpack::kBfloat : dlpack::kInt, bits, 1};
}

// NumPy's name for the elements, as in "<f4"; "" for bfloat16, for which it has none.
std::string typestr(DType t) {
  if (t == DType::bf16) return "";
  return std::string(t == DType::i32 ? "<i" : "<f") + std::to_string(size_of(t));
}

std::string device_name(const Array& a) {
  return a.tensor.device() == Device::cpu ? "cpu" : "cuda:" + std::to_string(device_index(a.ctx));
}

// What an exported array keeps alive until its consumer calls the deleter: from any thread, without Python.
template <class M>
struct Export {
  M managed{};
  int64_t shape[Shape::kMaxRank], strides[Shape::kMaxRank];
  std::shared_ptr<const void> owner;
};

// A capsule that nobody consumed releases the array.
template <class M>
void drop(PyObject* capsule) {
  if (!PyCapsule_IsValid(capsule, M::kName)) return;
  auto* managed = static_cast<M*>(PyCapsule_GetPointer(capsule, M::kName));
  managed->deleter(managed);
}

template <class M>
py::capsule capsule_of(const Array& a, [[maybe_unused]] uint64_t flags) {
  auto out = std::make_unique<Export<M>>();
  out->owner = a.owner;
  const Tensor& t = a.tensor;
  for (int i = 0; i < t.rank(); ++i) {
    out->shape[i] = t.dim(i);
    out->strides[i] = t.stride(i);
  }
  M& m = out->managed;
  m.array = {t.data(), device_of(a), t.rank(), type_of(t.dtype()), out->shape, out->strides, 0};
  m.context = out.get();
  m.deleter = [](M* managed) { delete static_cast<Export<M>*>(managed->context); };
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    m.major = dlpack::kMajor;
    m.minor = dlpack::kMinor;
    m.flags = flags;
  }
  PyObject* capsule = PyCapsule_New(&m, M::kName, &drop<M>);
  if (capsule == nullptr) throw py::error_already_set();
  out.release();  // NOLINT: the capsule, then its consumer, owns it
  return py::reinterpret_steal<py::capsule>(capsule);
}

Array copied(const Array& a, Device to) {
  const Tensor& t = a.tensor;
  const auto memory = std::make_shared<Buffer>(t.size_bytes(), to);
  Array out{Tensor(memory->data(), t.shape(), t.dtype(), to), memory, a.ctx, false};
  const py::gil_scoped_release release;
  copy_bytes(a.ctx, memory->data(), to, t.data(), t.device(), t.size_bytes());
  return out;
}

py::capsule to_dlpack(const Array& self, const std::optional<int64_t>& stream,
                      const std::optional<std::pair<int64_t, int64_t>>& max_version,
                      const std::optional<std::pair<int64_t, int64_t>>& dl_device, const std::optional<bool>& copy) {
  const DLDevice here = device_of(self);
  Array a = self;
  bool is_copied = false;
  if (dl_device && *dl_device != std::pair<int64_t, int64_t>(here.type, here.index)) {
    if (dl_device->first != dlpack::kCpu)
      refuse(PyExc_BufferError, words("an array on", device_name(self), "cannot go to DLPack device",
                                      std::to_string(dl_device->first) + ":" + std::to_string(dl_device->second)));
    if (copy && !*copy)
      refuse(PyExc_BufferError, device_name(self) + " to cpu takes a copy, and copy=False forbids it");
    a = copied(self, Device::cpu);
    is_copied = true;
  } else if (copy && *copy) {
    a = copied(self, a.tensor.device());
    is_copied = true;
  }
  if (a.tensor.device() == Device::cpu) {
    if (stream && self.tensor.device() == Device::cpu)
      refuse(PyExc_ValueError, words("stream must be None for an array on the CPU, got", *stream));
  } else if (!stream || *stream != -1) {  // -1: the consumer wants no waiting
    const int64_t waits = stream.value_or(0);
    if (waits < 0) refuse(PyExc_ValueError, words("no stream has the number", waits));
    let_wait(a.ctx, static_cast<StreamHandle>(waits));
  }
  if (max_version && max_version->first >= 1)
    return capsule_of<dlpack::ManagedVersioned>(
        a, (a.read_only ? dlpack::kReadOnly : 0) | (is_copied ? dlpack::kIsCopied : 0));
  if (a.read_only)
    refuse(PyExc_BufferError, "a read-only array needs DLPack 1.0 (max_version): older versions cannot express that");
  return capsule_of<dlpack::Managed>(a, 0);
}

py::buffer_info buffer_of(Array& a) {
  const Tensor& t = a.tensor;
  if (t.device() != Device::cpu)
    refuse(PyExc_BufferError, "the array is on " + device_name(a) + ": numpy() copies it, DLPack shares it");
  if (t.dtype() == DType::bf16)
    refuse(PyExc_BufferError, "the buffer protocol has no bfloat16: numpy() gives float32, DLPack shares it");
  std::vector<py::ssize_t> strides;
  for (int i = 0; i < t.rank(); ++i) strides.push_back(t.stride(i) * static_cast<int64_t>(size_of(t.dtype())));
  const char* format = t.dtype() == DType::f32 ? "f" : t.dtype() == DType::f64 ? "d" : "i";
  return py::buffer_info(t.data(), static_cast<py::ssize_t>(size_of(t.dtype())), format, t.rank(), dims_of(t.shape()),
                         strides, a.read_only);
}

// The dict that both interfaces share. An array that has no such interface has no such attribute.
py::dict interface_of(const Array& a, Device device, const char* name) {
  const Tensor& t = a.tensor;
  if (t.device() != device || t.dtype() == DType::bf16)
    refuse(PyExc_AttributeError,
           words("an array of", name_of(t.dtype()), "on", device_name(a), "has no", name) + "; DLPack shares it");
  py::dict out;
  out["shape"] = py::tuple(py::cast(dims_of(t.shape())));
  out["typestr"] = typestr(t.dtype());
  out["data"] = py::make_tuple(reinterpret_cast<uintptr_t>(t.data()), a.read_only);
  out["strides"] = py::none();  // C order
  out["version"] = 3;
  return out;
}

py::object as_numpy(const py::object& self, const py::object& dtype, const py::object& copy) {
  const auto& a = self.cast<const Array&>();
  if (a.tensor.device() != Device::cpu)
    refuse(PyExc_TypeError, "the array is on " + device_name(a) + ": numpy() copies it, DLPack shares it");
  if (a.tensor.dtype() == DType::bf16)
    refuse(PyExc_TypeError, "NumPy has no bfloat16: numpy() gives float32, DLPack shares it");
  py::object out = py::array(numpy_dtype(a.tensor.dtype()), dims_of(a.tensor.shape()), a.tensor.data(), self);
  if (a.read_only) out.attr("setflags")(py::arg("write") = false);
  const bool must = !copy.is_none() && copy.cast<bool>(), may = copy.is_none() || must;
  if (!dtype.is_none() && !py::object(out.attr("dtype")).equal(dtype)) {
    if (!may) refuse(PyExc_ValueError, "another dtype takes a copy, and copy=False forbids it");
    return out.attr("astype")(dtype);
  }
  return must ? out.attr("copy")() : out;
}

}  // namespace

void bind_array(py::module_& m) {
  py::class_<Array>(
      m, "Array", py::buffer_protocol(),
      "A view of the core's memory, in C order, that keeps its owner alive. Any library that knows DLPack, "
      "NumPy's or CUDA's array interface shares it without a copy; numpy() copies it.")
      .def_buffer(&buffer_of)
      .def_property_readonly(
          "shape", [](const Array& a) { return py::tuple(py::cast(dims_of(a.tensor.shape()))); },
          "Elements along each dimension.")
      .def_property_readonly(
          "ndim", [](const Array& a) { return a.tensor.rank(); }, "Dimensions.")
      .def_property_readonly(
          "size", [](const Array& a) { return a.tensor.numel(); }, "Elements.")
      .def_property_readonly(
          "nbytes", [](const Array& a) { return a.tensor.size_bytes(); }, "Bytes of all elements.")
      .def_property_readonly(
          "dtype", [](const Array& a) { return name_of(a.tensor.dtype()); }, "float32, float64, bfloat16 or int32.")
      .def_property_readonly("device", &device_name, "cpu, or cuda:N.")
      .def_property_readonly(
          "read_only", [](const Array& a) { return a.read_only; }, "Whether consumers may only read.")
      .def_property_readonly(
          "address", [](const Array& a) { return reinterpret_cast<uintptr_t>(a.tensor.data()); },
          "Of the first element, in the memory of `device`.")
      .def(
          "numpy", [](const Array& a) { return copy_of(a.ctx, a.tensor); },
          "A fresh NumPy array of the values; float32 where dtype is bfloat16. Waits for the model's work.")
      .def("__dlpack__", &to_dlpack, py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none(),
           "A DLPack capsule, see the array API standard. On a GPU `stream` (None: the default one) waits for the "
           "model's work. BufferError when the request cannot be met.")
      .def("__dlpack_device__",
           [](const Array& a) {
             const DLDevice d = device_of(a);
             return std::pair<int, int>(d.type, d.index);
           })
      .def_property_readonly("__array_interface__",
                             [](const Array& a) { return interface_of(a, Device::cpu, "__array_interface__"); })
      .def_property_readonly("__cuda_array_interface__",
                             [](const Array& a) {
                               py::dict out = interface_of(a, Device::cuda, "__cuda_array_interface__");
                               out["stream"] = stream_handle(a.ctx);
                               return out;
                             })
      .def("__array__", &as_numpy, py::arg("dtype") = py::none(), py::arg("copy") = py::none(),
           "The values as a NumPy array that shares the memory; TypeError on a GPU.")
      .def("__repr__", [](const Array& a) {
        return "Array(" + std::string(name_of(a.tensor.dtype())) + ", " + a.tensor.shape().str() + ", " +
               device_name(a) + (a.read_only ? ", read-only)" : ")");
      });
  m.def(
      "host_array", [](const py::object& values, const std::string& what) { return host_array(borrow(values, what)); },
      py::arg("values"), py::arg("what") = "the array",
      "Any library's array (or nested lists) as NumPy's: host memory is shared, a GPU's copied, bfloat16 widened to "
      "float32. ValueError naming `what` when it cannot be read.");
}

}  // namespace bg::bindings
