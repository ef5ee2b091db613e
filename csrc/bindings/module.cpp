// The extension module _bytegolf: error translation, then every part's bindings.
#include "bindings/bindings.h"

#include "base/check.h"
#include "base/file.h"
#include "bindings/paths.h"

namespace bg::bindings {
namespace {

// The exception class of bytegolf's own that stands for E, made once and kept by the module.
template <class E>
PyObject*& exception_class() {
  static PyObject* made = nullptr;
  return made;
}

template <class E>
void add_exception(py::module_& m, const char* name, PyObject* base, const char* doc) {
  py::exception<E> made(m, name, base);
  made.attr("__doc__") = doc;
  exception_class<E>() = made.release().ptr();
}

void raise(PyObject* type, const std::exception& error, int error_number = 0) {
  const py::object made = py::reinterpret_borrow<py::object>(type)(message_text(error.what()));
  if (error_number != 0) made.attr("errno") = error_number;
  PyErr_SetObject(type, made.ptr());
}

// The core's errors as Python's, most special first.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const FormatError& error) {
    raise(exception_class<FormatError>(), error);
  } catch (const NumericsError& error) {
    raise(exception_class<NumericsError>(), error);
  } catch (const FileError& error) {
    raise(exception_class<SystemError>(), error, error.error_number);
  } catch (const SystemError& error) {
    raise(exception_class<SystemError>(), error);
  } catch (const InvalidArgument& error) {
    raise(PyExc_ValueError, error);
  }
}

}  // namespace

PYBIND11_MODULE(_bytegolf, m) {
  m.doc() = "C++ core of bytegolf. Import `bytegolf`, not this.";
  m.attr("__version__") = BYTEGOLF_VERSION;
  add_exception<FormatError>(m, "FormatError", PyExc_ValueError,
                             "Bytes from outside (a shard, artifact or checkpoint) do not match their format. The "
                             "message names the path and the offset or tensor.");
  add_exception<NumericsError>(m, "NumericsError", PyExc_ArithmeticError,
                               "A number is NaN, infinite, or too large for what stores it. The message names the step "
                               "or tensor; no weight, moment or average has changed.");
  add_exception<SystemError>(m, "SystemError", PyExc_OSError,
                             "The system refused memory, a file or a device. The message says what was asked for.");
  py::register_exception_translator(&translate);
  bind_config(m);
  bind_base(m);
  bind_array(m);
  bind_model(m);
  bind_codec(m);
  bind_data(m);
  bind_bench(m);
  bind_ranks(m);
  bind_kernels(m);
  bind_train(m);  // after the types it takes
}

}  // namespace bg::bindings
