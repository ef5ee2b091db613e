// Benchmarks and the list of GEMM libraries, for Python.
#include "bench/bench.h"

#include "base/memory.h"
#include "bench/device_bench.h"
#include "bindings/arrays.h"
#include "kernels/gemm_library.h"

namespace bg::bindings {
namespace {

Ctx bench_context(int threads, const std::string& library) {
  Ctx ctx;
  ctx.pool = std::make_shared<ThreadPool>(threads);
  ctx.gemm_library = parse_gemm_library(library);
  return ctx;
}

}  // namespace

void bind_bench(py::module_& m) {
  m.def(
      "gemm_libraries",
      [] {
        py::list rows;
        for (const GemmLibraryInfo& info : gemm_libraries()) {
          py::dict row;
          row["name"] = info.name;
          row["available"] = info.available;
          row["detail"] = info.detail;
          rows.append(row);
        }
        return rows;
      },
      "One dict per library that can multiply matrices: name, available, detail (version and core, or why not).");
  m.def("add_gemm_library_folder", &add_gemm_library_folder, py::arg("folder"),
        "A folder to search for GEMM libraries before the system's; only before their first use.");
  m.def("bench_ops", &bench_ops, "Names of the ops that bench_op knows.");
  m.def(
      "bench_op",
      [](const std::string& name, double budget_s, int threads, const std::string& library) {
        std::vector<BenchFigure> figures;
        {
          const py::gil_scoped_release release;
          figures = bench_op(bench_context(threads, library), name, budget_s);
        }
        py::list rows;
        for (const BenchFigure& f : figures) {
          py::dict row;
          row["op"] = f.op;
          row["shape"] = f.shape;
          row["flops"] = f.flops;
          row["bytes"] = f.bytes;
          row["error"] = f.error;
          row["tolerance"] = f.tolerance;
          row["seconds"] = f.seconds;
          row["cpu_seconds"] = f.cpu_seconds;
          rows.append(row);
        }
        return rows;
      },
      py::arg("name"), py::arg("budget_s") = 1.0, py::arg("threads") = 0, py::arg("library") = "builtin",
      "Checks one op against its definition, then times it: a dict per shape with flops, bytes, error, tolerance and "
      "the seconds and cpu_seconds of each call.");
  m.def(
      "machine_rates",
      [](double budget_s, int threads, const std::string& library) {
        MachineRates rates;
        {
          const py::gil_scoped_release release;
          rates = measure_machine(bench_context(threads, library), budget_s);
        }
        py::dict out;
        out["gemm_flops"] = rates.gemm_flops;
        out["gemm_flops_cpu"] = rates.gemm_flops_cpu;
        out["copy_bytes"] = rates.copy_bytes;
        return out;
      },
      py::arg("budget_s") = 0.5, py::arg("threads") = 0, py::arg("library") = "builtin",
      "gemm_flops (best float32 product, per second), gemm_flops_cpu (per second of CPU time) and copy_bytes (best "
      "copy, read plus written, per second).");
  m.def("device_bench_groups", &device_bench_groups, "Names of the groups that bench_device knows.");
  m.def(
      "bench_device",
      [](const std::string& group, double budget_s, const std::string& device, const std::string& dtype, int64_t rows,
         int64_t length) {
        const Device where = device_named(device);
        const DType how = dtype_named(dtype);
        std::vector<DeviceFigure> figures;
        {
          const py::gil_scoped_release release;
          figures = bench_device(make_ctx(where, how), group, budget_s, rows, length);
        }
        py::list out;
        for (const DeviceFigure& f : figures) {
          py::dict row;
          row["group"] = f.group;
          row["what"] = f.what;
          row["flops"] = f.flops;
          row["bytes"] = f.bytes;
          row["ids"] = f.ids;
          row["error"] = f.error;
          row["tolerance"] = f.tolerance;
          row["checked_at"] = f.checked_at;
          row["memory_bytes"] = f.memory_bytes;
          row["seconds"] = f.seconds;
          out.append(row);
        }
        return out;
      },
      py::arg("group"), py::arg("budget_s") = 1.0, py::arg("device") = "cuda", py::arg("dtype") = "bfloat16",
      py::arg("rows") = 0, py::arg("length") = 0,
      "Checks a group of a training step's parts against the CPU in float64 at a small size, then times them by the "
      "device's clock: a dict each with group, what, flops, bytes, ids, error (None where nothing was checked), "
      "tolerance, checked_at, memory_bytes, seconds. rows, length: of ids at once; 0 means training's 12 and 4096.");
  m.def(
      "device_rates",
      [](double budget_s, const std::string& device, const std::string& dtype) {
        const Device where = device_named(device);
        const DType how = dtype_named(dtype);
        DeviceRates rates;
        {
          const py::gil_scoped_release release;
          rates = measure_device(make_ctx(where, how), budget_s);
        }
        py::dict out;
        out["gemm_flops"] = rates.gemm_flops;
        out["copy_bytes"] = rates.copy_bytes;
        return out;
      },
      py::arg("budget_s") = 0.5, py::arg("device") = "cuda", py::arg("dtype") = "bfloat16",
      "gemm_flops (8192^3 product of random numbers, per second) and copy_bytes (1 GiB, read plus written, per "
      "second).");
}

}  // namespace bg::bindings
