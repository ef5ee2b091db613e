// Optimiser and trainer, for Python: the GIL is released while they work.
#include "bindings/bindings.h"
#include "optim/newton_schulz.h"
#include "optim/schedule.h"
#include "tensor/buffer.h"

namespace bg::bindings {
namespace {

template <class T>
py::array newton_schulz_of(const py::array_t<T, py::array::c_style>& g, int64_t steps, int threads) {
  if (g.ndim() != 2) throw InvalidArgument(words("newton_schulz takes a matrix, got", g.ndim(), "dimensions"));
  BG_CHECK(steps >= 0, "steps must be at least 0, got", steps);
  const int64_t rows = g.shape(0), cols = g.shape(1);
  py::array_t<T> out({rows, cols});
  const Tensor in(const_cast<T*>(g.data()), {rows, cols}, DTypeOf<T>::value, Device::cpu);
  const Tensor result(out.mutable_data(), {rows, cols}, DTypeOf<T>::value, Device::cpu);
  {
    const py::gil_scoped_release release;
    Ctx ctx;
    ctx.dtype = DTypeOf<T>::value;
    ctx.pool = std::make_shared<ThreadPool>(threads);
    const int64_t n = newton_schulz_scratch(rows, cols);
    const Buffer scratch(static_cast<size_t>(n) * sizeof(T));
    newton_schulz(ctx, in, steps, Tensor(scratch.data(), {n}, ctx.dtype, ctx.device), result);
  }
  return out;
}

void bind_schedule(py::module_& m) {
  m.def(
      "schedule",
      [](const Config& config, int64_t step, double elapsed_s, double mean_step_s, double predicted_step_s) {
        const Clock clock{elapsed_s, mean_step_s, predicted_step_s};
        py::dict out;
        out["lr_factor"] = lr_factor(config, step, clock);
        out["muon_momentum"] = muon_momentum(config, step);
        out["jepa_lambda"] = jepa_lambda(config, step, clock);
        out["takes_snapshot"] = takes_snapshot(config, step, clock);
        out["is_over"] = run_is_over(config, step, clock);
        return out;
      },
      py::arg("config"), py::arg("step"), py::arg("elapsed_s") = 0.0, py::arg("mean_step_s") = 0.0,
      py::arg("predicted_step_s") = 0.0,
      "What the schedules say of step `step` (from 0): lr_factor, muon_momentum, jepa_lambda, takes_snapshot, "
      "is_over.");
}

}  // namespace

void bind_train(py::module_& m) {
  m.def(
      "newton_schulz", &newton_schulz_of<double>, py::arg("g").noconvert(), py::arg("steps") = 5,
      py::arg("threads") = 0,
      "The Newton-Schulz iteration of Muon on a float64 or float32 matrix; a fresh matrix of singular values near 1.");
  m.def("newton_schulz", &newton_schulz_of<float>, py::arg("g").noconvert(), py::arg("steps") = 5,
        py::arg("threads") = 0);
  bind_schedule(m);
}

}  // namespace bg::bindings
