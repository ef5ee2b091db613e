// Small services of the core that Python shares: counter-based random numbers, what the core was built with.
#include "base/random.h"

#include <zstd.h>

#include <bit>

#include "bindings/bindings.h"
#include "hwy/highway.h"

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
      py::arg("seed"), py::arg("name"), py::arg("step"), py::arg("n"),
      "n standard normals (float64), a pure function of the arguments.");
  m.def(
      "cpu_target",
      [] {
        // Lower bits are better targets; the best that was compiled in and that this CPU has.
        const uint64_t usable = static_cast<uint64_t>(hwy::SupportedTargets()) & static_cast<uint64_t>(HWY_TARGETS);
        return std::string(usable == 0 ? "scalar" : hwy::TargetName(int64_t{1} << std::countr_zero(usable)));
      },
      "Name of the instruction set that Highway's kernels run with on this CPU.");
  m.def(
      "zstd_version", [] { return std::string(ZSTD_versionString()); }, "Version of the zstd library in the core.");
}

}  // namespace bg::bindings
