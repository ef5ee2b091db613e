// The extension module _bytegolf: error translation, then every part's bindings.
#include "bindings/bindings.h"

#include "base/check.h"

namespace bg::bindings {
namespace {

// An exception class of bytegolf's own, made once and kept by the module.
template <class E>
void add_exception(py::module_& m, const char* name, PyObject* base, const char* doc) {
  py::register_exception<E>(m, name, base).attr("__doc__") = doc;
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
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const InvalidArgument& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
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
