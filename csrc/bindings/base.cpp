// What the core was built with and runs on.
#include <zstd.h>

#include <bit>

#include "base/cuda_libraries.h"
#include "base/memory.h"
#include "bindings/bindings.h"
#include "bindings/paths.h"
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
  m.def(
      "gpu_info",
      [] {
        const GpuInfo info = gpu_info();
        py::list gpus;
        for (const GpuInfo::Gpu& gpu : info.gpus) {
          py::dict row;
          row["name"] = gpu.name;
          row["capability"] = gpu.capability;
          row["total_bytes"] = gpu.total_bytes;
          gpus.append(row);
        }
        py::dict out;
        out["built"] = info.built;
        out["unusable"] = info.unusable;
        out["driver"] = info.driver;
        out["runtime"] = info.runtime;
        out["gpus"] = gpus;
        return out;
      },
      "built (with CUDA kernels), unusable (why no GPU can be used; empty when one can), driver and runtime "
      "(versions), "
      "gpus (name, capability, total_bytes of each visible one).");
  m.def(
      "add_cuda_library_folder", [](const PathBytes& folder) { add_cuda_library_folder(folder.bytes); },
      py::arg("folder"), "A folder to search for CUDA libraries before the system's; only before their first use.");
  m.def(
      "cuda_library_report",
      [] {
        py::list rows;
        for (const CudaLibraryReport& library : cuda_library_report()) {
          py::dict row;
          row["name"] = library.name;
          row["path"] = path_text(library.path);
          row["version"] = library.version;
          row["problem"] = library.problem;
          row["always"] = library.always;
          rows.append(row);
        }
        return rows;
      },
      "One dict per library that CUDA kernels call: name, path, version, problem (why it cannot be used), "
      "always (false: only runs on several GPUs need it).");
}

}  // namespace bg::bindings
