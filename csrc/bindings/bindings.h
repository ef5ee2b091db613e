// One function per file of this folder; module.cpp calls them all. How arrays cross: any library's in (foreign.h),
// NumPy's copies or shared views (array.h) out.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace bg::bindings {

namespace py = pybind11;

void bind_config(py::module_& m);
void bind_base(py::module_& m);
void bind_array(py::module_& m);
void bind_model(py::module_& m);
void bind_codec(py::module_& m);
void bind_ranks(py::module_& m);
void bind_train(py::module_& m);
void bind_data(py::module_& m);
void bind_bench(py::module_& m);
void bind_kernels(py::module_& m);

}  // namespace bg::bindings
