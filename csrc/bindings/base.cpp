// What the core was built with and runs on.
#include <zstd.h>

#include <bit>

#include "bindings/bindings.h"
#include "hwy/highway.h"

namespace bg::bindings {

void bind_base(py::module_& m) {
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
