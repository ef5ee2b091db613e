// Benchmarks and the list of GEMM libraries, for Python.
#include "bench/bench.h"

#include "bindings/bindings.h"
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
}

}  // namespace bg::bindings
