// Small services of the core that Python shares: counter-based random numbers.
#include "base/random.h"

#include "bindings/bindings.h"

namespace bg::bindings {

void bind_base(py::module_& m) {
  m.def(
      "random_normal",
      [](uint64_t seed, const std::string& name, uint32_t step, int64_t n) {
        py::array_t<double> out(n);
        const Random random(seed, name, step);
        for (int64_t i = 0; i < n; ++i) out.mutable_at(i) = random.normal(static_cast<uint64_t>(i));
        return out;
      },
      py::arg("seed"), py::arg("name"), py::arg("step"), py::arg("n"), "n standard normals (float64), a pure function of the arguments.");
}

}  // namespace bg::bindings
