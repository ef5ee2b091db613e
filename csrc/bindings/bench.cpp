// Benchmarks and the list of GEMM libraries, for Python.
#include "bench/bench.h"

#include <tuple>

#include "bindings/arrays.h"
#include "kernels/gemm_library.h"

namespace bg::bindings {
namespace {

// Which members of a struct Python sees, under which names.
template <class Row, class Member>
struct Field {
  const char* name;
  Member Row::*member;
};
template <class Row, class Member>
Field(const char*, Member Row::*) -> Field<Row, Member>;

constexpr std::tuple kFigure{
    Field{"group", &Figure::group},
    Field{"what", &Figure::what},
    Field{"flops", &Figure::flops},
    Field{"bytes", &Figure::bytes},
    Field{"ids", &Figure::ids},
    Field{"error", &Figure::error},
    Field{"tolerance", &Figure::tolerance},
    Field{"checked_at", &Figure::checked_at},
    Field{"memory_bytes", &Figure::memory_bytes},
    Field{"seconds", &Figure::seconds},
    Field{"cpu_seconds", &Figure::cpu_seconds},
};
constexpr std::tuple kRates{
    Field{"gemm_flops", &Rates::gemm_flops},
    Field{"gemm_flops_cpu", &Rates::gemm_flops_cpu},
    Field{"copy_bytes", &Rates::copy_bytes},
};
constexpr std::tuple kLibrary{
    Field{"name", &GemmLibraryInfo::name},
    Field{"available", &GemmLibraryInfo::available},
    Field{"detail", &GemmLibraryInfo::detail},
};

template <class Row, class Fields>
py::dict as_dict(const Row& row, const Fields& fields) {
  py::dict out;
  std::apply([&](const auto&... field) { ((out[field.name] = row.*field.member), ...); }, fields);
  return out;
}
template <class Row, class Fields>
py::list as_dicts(const std::vector<Row>& rows, const Fields& fields) {
  py::list out;
  for (const Row& row : rows) out.append(as_dict(row, fields));
  return out;
}

Ctx bench_context(const std::string& device, const std::string& dtype, int threads, const std::string& library) {
  Ctx ctx = ctx_named(device, dtype, threads);
  ctx.gemm_library = parse_gemm_library(library);
  return ctx;
}

}  // namespace

void bind_bench(py::module_& m) {
  m.def(
      "gemm_libraries", [] { return as_dicts(gemm_libraries(), kLibrary); },
      "One dict per library that can multiply matrices: name, available, detail (version and core, or why not).");
  m.def("add_gemm_library_folder", &add_gemm_library_folder, py::arg("folder"),
        "A folder to search for GEMM libraries before the system's; only before their first use.");
  m.def(
      "bench_groups",
      [](const std::string& device) { return bench_groups(device_named(device.substr(0, device.find(':')))); },
      py::arg("device") = "cpu", "Names of the groups that bench_group measures on the device.");
  m.def(
      "bench_group",
      [](const std::string& group, int64_t rows, int64_t length, double budget_s, const std::string& device,
         const std::string& dtype, int threads, const std::string& library) {
        std::vector<Figure> figures;
        {
          const py::gil_scoped_release release;
          figures = bench_group(bench_context(device, dtype, threads, library), group, budget_s, rows, length);
        }
        return as_dicts(figures, kFigure);
      },
      py::arg("group"), py::arg("rows"), py::arg("length"), py::arg("budget_s") = 1.0, py::arg("device") = "cpu",
      py::arg("dtype") = "float32", py::arg("threads") = 0, py::arg("library") = "builtin",
      "Checks the pieces of work of a group on `rows` rows of `length` ids against the CPU in float64, then times "
      "them: a "
      "dict each with group, what, "
      "flops, bytes, ids, error (None where nothing was checked), tolerance, checked_at, memory_bytes, and the seconds "
      "and cpu_seconds (none on a GPU) of each call. budget_s: of timed calls, for each piece on a GPU, for the group "
      "on "
      "the CPU. threads, library: on the CPU.");
  m.def(
      "bench_rates",
      [](double budget_s, const std::string& device, const std::string& dtype, int threads,
         const std::string& library) {
        Rates rates;
        {
          const py::gil_scoped_release release;
          rates = measure_rates(bench_context(device, dtype, threads, library), budget_s);
        }
        return as_dict(rates, kRates);
      },
      py::arg("budget_s") = 0.5, py::arg("device") = "cpu", py::arg("dtype") = "float32", py::arg("threads") = 0,
      py::arg("library") = "builtin",
      "gemm_flops (a large product of random numbers, per second), gemm_flops_cpu (the same per second of CPU time; 0 "
      "on "
      "a GPU) and copy_bytes (a large copy, read plus written, per second).");
}

}  // namespace bg::bindings
