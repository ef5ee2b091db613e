// Optimiser and trainer, for Python: the GIL is released while they work.
#include <algorithm>
#include <cstring>
#include <optional>

#include "bindings/array.h"
#include "bindings/arrays.h"
#include "data/loader.h"
#include "data/shard.h"
#include "model/jepa.h"
#include "optim/newton_schulz.h"
#include "optim/schedule.h"
#include "tensor/buffer.h"
#include "train/trainer.h"

namespace bg::bindings {
namespace {

template <class T>
py::array newton_schulz_of(const py::array_t<T, py::array::c_style>& g, int64_t steps, int threads,
                           const std::string& device, const std::string& dtype) {
  if (g.ndim() != 2) throw InvalidArgument(words("newton_schulz takes a matrix, got", g.ndim(), "dimensions"));
  BG_CHECK(steps >= 0, "steps must be at least 0, got", steps);
  const int64_t rows = g.shape(0), cols = g.shape(1);
  const Ctx ctx = make_ctx(device_named(device), dtype.empty() ? DTypeOf<T>::value : dtype_named(dtype), threads);
  const int64_t n = newton_schulz_scratch(rows, cols);
  const size_t element = size_of(ctx.dtype);
  const Buffer in(static_cast<size_t>(rows * cols) * element, ctx.device), out(in.size_bytes(), ctx.device),
      scratch(static_cast<size_t>(n) * element, ctx.device);
  const Tensor from(in.data(), {rows, cols}, ctx.dtype, ctx.device),
      to(out.data(), {rows, cols}, ctx.dtype, ctx.device);
  {
    const std::vector<double> values(g.data(), g.data() + g.size());
    const py::gil_scoped_release release;
    upload(ctx, values, from);
    newton_schulz(ctx, from, steps, Tensor(scratch.data(), {n}, ctx.dtype, ctx.device), to);
  }
  return copy_of(ctx, to);
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
        out["revisits"] = revisits(config, step, clock);
        out["takes_snapshot"] = takes_snapshot(config, step, clock);
        out["is_over"] = run_is_over(config, step, clock);
        return out;
      },
      py::arg("config"), py::arg("step"), py::arg("elapsed_s") = 0.0, py::arg("mean_step_s") = 0.0,
      py::arg("predicted_step_s") = 0.0,
      "Values of the schedules at step `step` (from 0): lr_factor, muon_momentum, jepa_lambda, revisits, "
      "takes_snapshot, is_over.");
}

py::dict dict_of(const StepStats& s) {
  py::dict d;
  d["step"] = s.step;
  d["losses"] = s.losses;
  d["grad_norm"] = s.grad_norm;
  d["lr_factor"] = s.lr_factor;
  d["jepa_lambda"] = s.jepa_lambda;
  d["muon_momentum"] = s.muon_momentum;
  d["ids"] = s.ids;
  d["bytes"] = s.bytes;
  d["seconds"] = s.seconds;
  d["elapsed_s"] = s.elapsed_s;
  return d;
}

py::dict dict_of(const Progress& p) {
  py::dict d;
  d["step"] = p.step;
  d["snapshots"] = p.snapshots;
  d["bytes"] = p.bytes;
  d["elapsed_s"] = p.elapsed_s;
  d["first_step_s"] = p.first_step_s;
  d["longest_step_s"] = p.longest_step_s;
  return d;
}

std::shared_ptr<Trainer> make_trainer(const Config& config, std::shared_ptr<Model> model,
                                      const std::optional<std::shared_ptr<ShardSet>>& data,
                                      const std::optional<std::shared_ptr<Comm>>& ranks) {
  const std::shared_ptr<Comm> comm = ranks.value_or(nullptr);
  std::shared_ptr<Loader> loader;
  if (data) {
    BG_CHECK((*data)->vocab() == config.vocab(), "data of vocabulary", (*data)->vocab().name,
             "for a model of vocabulary", config.vocab_name());
    loader =
        std::make_shared<Loader>(*data, LoaderOptions::of(config, comm ? comm->rank() : 0, comm ? comm->world() : 1));
  }
  const py::gil_scoped_release release;  // ranks meet in there
  return std::make_shared<Trainer>(config, std::move(model), std::move(loader), std::function<double()>(), comm);
}

py::dict step_on(Trainer& self, const Ids& ids, const Ids& targets, int64_t micro_batches,
                 const py::object& directions) {
  if (ids.ndim() != 2 || targets.ndim() != 2 || ids.shape(0) != targets.shape(0) || ids.shape(1) != targets.shape(1))
    throw InvalidArgument("ids and targets must both have shape (B, T)");
  py::array_t<double, py::array::c_style | py::array::forcecast> columns;
  std::span<const double> given;
  if (!directions.is_none()) {
    columns = decltype(columns)::ensure(directions);
    if (!columns) throw py::error_already_set();
    BG_CHECK(columns.ndim() == 2 && columns.shape(0) == self.config().jepa_latent_dim &&
                 columns.shape(1) == kSigregDirections,
             "sigreg_directions must have shape", self.config().jepa_latent_dim, "x", kSigregDirections);
    given = {columns.data(), static_cast<size_t>(columns.size())};
  }
  const size_t n = static_cast<size_t>(ids.size());
  const std::span<const int32_t> x(ids.data(), n), y(targets.data(), n);
  const int64_t B = ids.shape(0), T = ids.shape(1);
  StepStats stats;
  {
    const py::gil_scoped_release release;
    stats = self.step_on(x, y, B, T, micro_batches, given);
  }
  return dict_of(stats);
}

// On the CPU views, not copies: they keep the trainer alive and change with its next step. `prefix` chooses by name.
py::dict state_views(const py::object& self, const std::string& prefix) {
  py::dict out;
  auto& trainer = self.cast<Trainer&>();
  for (const Trainer::StateTensor& s : trainer.state()) {
    if (!s.name.starts_with(prefix)) continue;
    py::array view = s.tensor.device() == Device::cpu
                         ? py::array(numpy_dtype(s.tensor.dtype()), dims_of(s.tensor.shape()), s.tensor.data(), self)
                         : copy_of(trainer.model().ctx(), s.tensor);
    view.attr("setflags")(py::arg("write") = false);
    out[py::str(s.name)] = view;
  }
  return out;
}

// The same as shared arrays, on any device.
py::dict shared_views(const std::shared_ptr<Trainer>& self, const std::string& prefix) {
  py::dict out;
  for (const Trainer::StateTensor& s : self->state())
    if (s.name.starts_with(prefix))
      out[py::str(s.name)] = Array{s.tensor, self, self->model().ctx(), /*read_only=*/true};
  return out;
}

// Everything is checked before anything is written.
void load_state(Trainer& self, const py::dict& arrays, const Progress& progress) {
  const std::vector<Trainer::StateTensor> state = self.state();
  std::vector<py::array> sources;
  for (const Trainer::StateTensor& s : state) {
    const py::str name(s.name);
    if (!arrays.contains(name)) throw InvalidArgument(words("tensor", s.name, "is missing"));
    if (!py::isinstance<py::array>(arrays[name])) throw InvalidArgument(words("tensor", s.name, "is not an array"));
    const auto array = py::array::ensure(py::object(arrays[name]), py::array::c_style);
    if (!array) throw py::error_already_set();
    if (array.ndim() > Shape::kMaxRank || shape_of(array, s.name.c_str()) != s.tensor.shape())
      throw InvalidArgument(words("tensor", s.name, "has shape", std::string(py::str(py::object(array.attr("shape")))),
                                  "where the run has", s.tensor.shape().str()));
    if (!array.dtype().is(numpy_dtype(s.tensor.dtype())))
      throw InvalidArgument(words("tensor", s.name, "is", std::string(py::str(py::object(array.dtype()))),
                                  "where the run has", name_of(s.tensor.dtype())));
    sources.push_back(array);
  }
  if (arrays.size() != state.size())
    for (const auto& [key, value] : arrays) {
      const std::string name = py::str(key);
      if (std::none_of(state.begin(), state.end(), [&](const auto& s) { return s.name == name; }))
        throw InvalidArgument(words("tensor", name, "is unknown to the run"));
    }
  const Ctx& ctx = self.model().ctx();
  self.check(progress);
  for (size_t i = 0; i < state.size(); ++i) {
    const Tensor& t = state[i].tensor;
    copy_bytes(ctx, t.data(), t.device(), sources[i].data(), Device::cpu, t.size_bytes());
  }
  self.restore(progress);
}

void bind_trainer(py::module_& m) {
  py::class_<Trainer, std::shared_ptr<Trainer>>(m, "Trainer", "The training loop of the core; use bytegolf.Trainer.")
      .def(py::init(&make_trainer), py::arg("config"), py::arg("model"), py::arg("data"), py::arg("comm") = py::none(),
           "data: a ShardSet, or None for step_on alone. Works on the model's own parameters, without a copy.")
      .def(
          "step",
          [](Trainer& self) {
            StepStats stats;
            {
              const py::gil_scoped_release release;
              stats = self.step();
            }
            return dict_of(stats);
          },
          "One step on the run's data. Dict of step, losses, grad_norm, lr_factor, ...; NumericsError names the "
          "tensor.")
      .def("step_on", &step_on, py::arg("ids"), py::arg("targets"), py::arg("micro_batches") = 1,
           py::arg("sigreg_directions") = py::none(),
           "One step on int32 ids and targets (B, T), B cut into micro_batches. Directions (latent, 256) or None.")
      .def_property_readonly("marks", &Trainer::marks,
                             "Grows with every piece of progress inside a step; any thread may ask.")
      .def_property_readonly(
          "clock",
          [](const Trainer& self) {
            const Clock c = self.clock();
            return py::make_tuple(c.elapsed_s, c.mean_step_s, c.predicted_step_s);
          },
          "(elapsed_s, mean_step_s, predicted_step_s): what decides whether another step may begin.")
      .def(
          "agree",
          [](Trainer& self, double elapsed_s, double mean_step_s, double predicted_step_s) {
            self.agree({elapsed_s, mean_step_s, predicted_step_s});
          },
          py::arg("elapsed_s"), py::arg("mean_step_s"), py::arg("predicted_step_s"),
          "The next step, and `done` before it, use this clock: that of rank 0, on all ranks.")
      .def(
          "restore",
          [](Trainer& self, int64_t step, int64_t snapshots, int64_t bytes, double elapsed_s, double first_step_s,
             double longest_step_s) {
            self.restore({step, snapshots, bytes, elapsed_s, first_step_s, longest_step_s});
          },
          py::kw_only(), py::arg("step"), py::arg("snapshots"), py::arg("bytes"), py::arg("elapsed_s"),
          py::arg("first_step_s"), py::arg("longest_step_s"),
          "Continues from this progress with the tensors as they are.")
      .def("share_state", &Trainer::share_state, py::call_guard<py::gil_scoped_release>(),
           "Copies rank 0's weights, moments and averages to all ranks.")
      .def(
          "fingerprints",
          [](const Trainer& self) {
            std::vector<std::pair<std::string, uint64_t>> found;
            {
              const py::gil_scoped_release release;
              found = self.fingerprints();
            }
            py::dict out;
            for (const auto& [name, number] : found) out[py::str(name)] = number;
            return out;
          },
          "Name of each tensor of state() -> a 64-bit number of its bits: equal on all ranks as long as they agree.")
      .def("pause", &Trainer::pause, "Stops the run's clock until the next step.")
      .def_property_readonly("done", &Trainer::done, "Whether no further step may begin.")
      .def_property_readonly("whole", &Trainer::whole,
                             "Whether state() is that of whole steps: false after an error while weights were moving.")
      .def_property_readonly(
          "progress", [](const Trainer& self) { return dict_of(self.progress()); },
          "Dict of step, snapshots, bytes, elapsed_s, first_step_s, longest_step_s.")
      .def(
          "state", &state_views, py::arg("prefix") = "",
          "Dict of the run's tensors whose names start with `prefix`, read-only; on the CPU views that change with the "
          "next step, on a GPU copies.")
      .def("views", &shared_views, py::arg("prefix") = "",
           "Dict of the same tensors as read-only Arrays, which change with the next step, on any device.")
      .def(
          "load_state",
          [](Trainer& self, const py::dict& arrays, int64_t step, int64_t snapshots, int64_t bytes, double elapsed_s,
             double first_step_s, double longest_step_s) {
            load_state(self, arrays, {step, snapshots, bytes, elapsed_s, first_step_s, longest_step_s});
          },
          py::arg("arrays"), py::kw_only(), py::arg("step"), py::arg("snapshots"), py::arg("bytes"),
          py::arg("elapsed_s"), py::arg("first_step_s"), py::arg("longest_step_s"),
          "Puts state() and progress back. ValueError naming the tensor, and nothing changed, when they do not fit.");
}

}  // namespace

void bind_train(py::module_& m) {
  constexpr const char* kDoc =
      "The Newton-Schulz iteration of Muon on a float64 or float32 matrix, on a device and in a dtype (its own when "
      "empty); a fresh matrix of singular values near 1.";
  m.def("newton_schulz", &newton_schulz_of<double>, py::arg("g").noconvert(), py::arg("steps") = 5,
        py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("dtype") = "", kDoc);
  m.def("newton_schulz", &newton_schulz_of<float>, py::arg("g").noconvert(), py::arg("steps") = 5,
        py::arg("threads") = 0, py::arg("device") = "cpu", py::arg("dtype") = "", kDoc);
  bind_schedule(m);
  bind_trainer(m);
}

}  // namespace bg::bindings
