// The extension module _bytegolf: error translation, then every part's bindings.
#include "bindings/bindings.h"

#include "base/check.h"

namespace bg::bindings {
namespace {

// An exception class of bytegolf's own, made once and kept by the module.
template <class E>
void add_exception(py::module_& m, const char* name, PyObject* base) {
  py::register_exception<E>(m, name, base);
}

}  // namespace

PYBIND11_MODULE(_bytegolf, m) {
  m.doc() = "C++ core of bytegolf. Import `bytegolf`, not this.";
  m.attr("__version__") = BYTEGOLF_VERSION;
  add_exception<FormatError>(m, "FormatError", PyExc_ValueError);
  add_exception<NumericsError>(m, "NumericsError", PyExc_ArithmeticError);
  add_exception<SystemError>(m, "SystemError", PyExc_OSError);
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
  bind_dist(m);
  bind_kernels(m);
  bind_train(m);  // after the types it takes
}

}  // namespace bg::bindings
