// Model, scoring and sampling, for Python: the GIL is released while they work.
#include "model/model.h"

#include <algorithm>
#include <memory>

#include "bindings/arrays.h"
#include "train/evaluate.h"
#include "train/generate.h"

namespace bg::bindings {
namespace {

std::span<const int32_t> span_of(const Ids& ids) {
  return {ids.data(), static_cast<size_t>(ids.size())};
}

void check_2d(const Ids& ids, const char* what) {
  BG_CHECK(ids.ndim() == 2, what, "must have two dimensions [B,T], got", ids.ndim());
}

py::dict dict_of(const Model& model, Tensor arena) {
  py::dict out;
  for (const ParamSpec& s : model.params().specs())
    out[s.name.c_str()] = copy_of(model.ctx(), ParamTable::view(s, arena));
  return out;
}

// All names and shapes are checked before the first value is written.
void load(Model& model, const py::dict& given) {
  ParamTable& params = model.params();
  std::string missing;
  for (const ParamSpec& s : params.specs())
    if (!given.contains(s.name.c_str())) missing += (missing.empty() ? "" : ", ") + s.name;
  BG_CHECK(missing.empty(), "parameters are missing:", missing);
  for (const auto& [key, value] : given) {
    const std::string name = py::cast<std::string>(key);
    const ParamSpec* s = params.find(name);
    BG_CHECK(s != nullptr, "unknown parameter", name);
    const py::array a = py::array::ensure(value);
    BG_CHECK(a, "parameter", name, "is no array");
    const Shape shape = shape_of(a, name.c_str());
    BG_CHECK(shape == s->shape, "parameter", name, "has shape", shape.str(), "but the model's is", s->shape.str());
    BG_CHECK(a.dtype().kind() == 'f', "parameter", name, "holds no floating-point numbers");
  }
  for (const ParamSpec& s : params.specs()) {
    const py::array_t<double, py::array::c_style | py::array::forcecast> a(given[s.name.c_str()]);
    upload(model.ctx(), {a.data(), static_cast<size_t>(a.size())}, ParamTable::view(s, params.values()));
  }
  params.refresh_operands(model.ctx());
}

std::shared_ptr<Model> make(const Config& config, const std::string& device, const std::string& dtype, uint64_t seed,
                            int threads) {
  const Device where = device_named(device);
  const DType how = dtype_named(dtype);
  const py::gil_scoped_release release;
  return std::make_shared<Model>(config, make_ctx(where, how, threads), seed);
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Losses>(m, "Losses", "Means over the scored positions, in nats; total is what backward() differentiates.")
      .def_readonly("ce", &Losses::ce, "Cross-entropy per target.")
      .def_readonly("jepa_pred", &Losses::jepa_pred, "Prediction loss of JEPA, unweighted; 0 without JEPA.")
      .def_readonly("jepa_sigreg", &Losses::jepa_sigreg, "SIGReg loss of JEPA, unweighted; 0 without JEPA.")
      .def_readonly("latent", &Losses::latent, "Loss of the latent head, unweighted; 0 without one.")
      .def_readonly("total", &Losses::total, "The weighted sum of all parts.")
      .def("__repr__", [](const Losses& l) {
        return words("Losses(ce=", l.ce, ", jepa_pred=", l.jepa_pred, ", jepa_sigreg=", l.jepa_sigreg,
                     ", latent=", l.latent, ", total=", l.total, ")");
      });

  py::class_<Model, std::shared_ptr<Model>>(m, "Model", "Parameters, forward, loss and backward; see bytegolf.Model.")
      .def(py::init(&make), py::arg("config"), py::arg("device") = "cpu", py::arg("dtype") = "float32",
           py::arg("seed") = 0, py::arg("threads") = 0)
      .def_property_readonly(
          "config", [](const Model& self) { return self.config(); }, "The options this model was made with.")
      .def_property_readonly(
          "dtype", [](const Model& self) { return name_of(self.ctx().dtype); },
          "Numbers that are computed in: float32, float64 or bfloat16.")
      .def_property_readonly(
          "device", [](const Model& self) { return name_of(self.ctx().device); }, "Where parameters lie: cpu or cuda.")
      .def_property_readonly(
          "threads", [](const Model& self) { return self.ctx().pool->size(); }, "Threads that work on the CPU.")
      .def_property_readonly(
          "num_parameters", [](const Model& self) { return self.params().numel(); }, "Elements of all parameters.")
      .def("parameters", [](const Model& self) { return dict_of(self, self.params().values()); })
      .def("gradients", [](const Model& self) { return dict_of(self, self.params().grads()); })
      .def(
          "specs",
          [](const Model& self) {
            constexpr const char* kGroups[] = {"matrix", "table", "head", "scalar", "jepa"};
            constexpr const char* kCodecs[] = {"matrix", "other", "left_out"};
            py::list rows;
            for (const ParamSpec& s : self.params().specs()) {
              py::dict row;
              row["name"] = s.name;
              row["shape"] = py::tuple(py::cast(dims_of(s.shape)));
              row["group"] = kGroups[static_cast<int>(s.group)];
              row["codec"] = kCodecs[static_cast<int>(s.codec)];
              row["averaged"] = s.averaging == Averaging::on;
              rows.append(row);
            }
            return rows;
          },
          "One dict per parameter: name, shape, group (optimiser), codec, averaged.")
      .def("load_parameters", &load, py::arg("params"))
      .def("zero_gradients", &Model::zero_gradients, py::call_guard<py::gil_scoped_release>(),
           "Sets all gradients to 0; backward() adds to them.")
      .def(
          "logits",
          [](Model& self, const Ids& ids) {
            check_2d(ids, "ids");
            Tensor t;
            {
              const py::gil_scoped_release release;
              t = self.logits(span_of(ids), ids.shape(0), ids.shape(1));
            }
            return copy_of(self.ctx(), t);
          },
          py::arg("ids"))
      .def(
          "loss",
          [](Model& self, const Ids& ids, const Ids& targets, double jepa_lambda,
             const std::optional<py::array_t<double, py::array::c_style | py::array::forcecast>>& directions) {
            check_2d(ids, "ids");
            BG_CHECK(targets.ndim() == 2 && targets.shape(0) == ids.shape(0) && targets.shape(1) == ids.shape(1),
                     "targets must have the shape of ids, [", ids.shape(0), ",", ids.shape(1), "]");
            std::span<const double> dirs;
            if (directions) dirs = {directions->data(), static_cast<size_t>(directions->size())};
            const py::gil_scoped_release release;
            return self.loss(span_of(ids), span_of(targets), ids.shape(0), ids.shape(1), jepa_lambda, dirs);
          },
          py::arg("ids"), py::arg("targets"), py::arg("jepa_lambda") = 0.0, py::arg("sigreg_directions") = py::none())
      .def(
          "nll",
          [](Model& self, const Ids& ids) {
            check_2d(ids, "ids");
            const int64_t B = ids.shape(0), T = ids.shape(1) - 1, K = self.config().patch_size;
            BG_CHECK(B >= 1 && T >= 1, "nll needs at least two ids a row, got shape", B, ids.shape(1));
            const int64_t padded =
                (T + K - 1) / K * K;  // a patch model takes whole patches; what is behind T is not scored
            std::vector<int32_t> in(static_cast<size_t>(B * padded), 0), targets(in.size(), -1);
            for (int64_t b = 0; b < B; ++b) {
              std::copy_n(ids.data(b, 0), T, &in[b * padded]);
              std::copy_n(ids.data(b, 1), T, &targets[b * padded]);
            }
            std::vector<double> nats(in.size());
            {
              const py::gil_scoped_release release;
              self.nll(in, targets, B, padded, nats);
            }
            py::array_t<double> out({B, T});
            for (int64_t b = 0; b < B; ++b) std::copy_n(&nats[b * padded], T, out.mutable_data(b, 0));
            return out;
          },
          py::arg("ids"))
      .def("backward", &Model::backward, py::arg("scale") = 1.0, py::call_guard<py::gil_scoped_release>())
      .def("print_plan", &Model::print_plan,
           "Where the activations of the last call lie: a table of lifetime, name, shape, offset and bytes.")
      .def(
          "generate",
          [](Model& self, const py::bytes& prompt, int64_t n, double temperature, uint64_t seed,
             const std::optional<py::function>& emit) {
            std::function<bool(uint8_t)> call;
            if (emit)
              call = [&](uint8_t byte) {
                const py::gil_scoped_acquire acquire;
                const char c = static_cast<char>(byte);
                const py::object go_on = (*emit)(py::bytes(&c, 1));
                return !(py::isinstance<py::bool_>(go_on) && !go_on.cast<bool>());
              };
            const std::string text = prompt;
            std::string out;
            {
              const py::gil_scoped_release release;
              out = generate(self, text, n, temperature, seed, call);
            }
            return py::bytes(out);
          },
          py::arg("prompt"), py::arg("n"), py::arg("temperature") = 1.0, py::arg("seed") = 0,
          py::arg("emit") = py::none());

  // Holds the stream and the model for as long as it runs.
  struct Scoring {
    std::shared_ptr<Model> model;
    Ids stream;
    Evaluation evaluation;
  };
  py::class_<Scoring>(m, "Evaluation", "Scores a stream of ids a few windows at a time; see bytegolf.evaluate.")
      .def(py::init([](std::shared_ptr<Model> model, const Ids& stream, int64_t window, int64_t stride) {
             BG_CHECK(stream.ndim() == 1, "a stream of ids has one dimension, got", stream.ndim());
             Model& ref = *model;
             return std::unique_ptr<Scoring>(
                 new Scoring{std::move(model), stream, Evaluation(ref, span_of(stream), window, stride)});
           }),
           py::arg("model"), py::arg("stream"), py::arg("window"), py::arg("stride"))
      .def(
          "advance", [](Scoring& self) { return self.evaluation.advance(); }, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("total", [](const Scoring& self) { return self.evaluation.targets(); })
      .def_property_readonly("targets", [](const Scoring& self) { return self.evaluation.score().targets; })
      .def_property_readonly("bytes", [](const Scoring& self) { return self.evaluation.score().bytes; })
      .def_property_readonly("nats", [](const Scoring& self) { return self.evaluation.score().nats; })
      .def_property_readonly("bpb", [](const Scoring& self) { return self.evaluation.score().bpb(); })
      .def_property_readonly("nll", [](const Scoring& self) {
        const auto nll = self.evaluation.nll();
        return py::array_t<double>(static_cast<py::ssize_t>(nll.size()), nll.data());
      });
}

}  // namespace bg::bindings
