// Model, scoring and sampling, for Python: the GIL is released while they work.
#include "model/model.h"

#include <algorithm>
#include <map>
#include <memory>

#include "bindings/array.h"
#include "bindings/arrays.h"
#include "bindings/foreign.h"
#include "infer/evaluate.h"
#include "infer/generate.h"

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

// Live arrays over an arena of the model's.
py::dict views_of(const std::shared_ptr<Model>& model, Tensor arena) {
  py::dict out;
  for (const ParamSpec& s : model->params().specs())
    out[s.name.c_str()] = Array{ParamTable::view(s, arena), model, model->ctx()};
  return out;
}

bool is_float(const Borrowed& a) {
  if (!a.dtype) return py::reinterpret_borrow<py::array>(a.owner).dtype().kind() == 'f';  // dtypes that only NumPy has
  return *a.dtype == DType::f16 || *a.dtype == DType::bf16 || *a.dtype == DType::f32 || *a.dtype == DType::f64;
}

// Whether `a` is the tensor's own memory, with exactly its bytes.
bool is_like(const Borrowed& a, const Tensor& t) {
  return a.dtype == t.dtype() && a.device == t.device() && a.is_contiguous();
}

void copy_from(const Ctx& ctx, const Borrowed& a, const Tensor& t) {
  if (is_like(a, t)) {
    const py::gil_scoped_release release;
    if (t.device() == Device::cuda) wait_for(ctx, a.stream);
    copy_bytes(ctx, t.data(), t.device(), a.data, a.device, t.size_bytes());
    return;
  }
  const py::array_t<double, py::array::c_style | py::array::forcecast> values(host_array(a));
  upload(ctx, {values.data(), static_cast<size_t>(values.size())}, t);
}

// All names and shapes are checked before the first value is written.
void load(Model& model, const py::dict& given) {
  ParamTable& params = model.params();
  const Ctx& ctx = model.ctx();
  std::string missing;
  for (const ParamSpec& s : params.specs())
    if (!given.contains(s.name.c_str())) missing += (missing.empty() ? "" : ", ") + s.name;
  BG_CHECK(missing.empty(), "parameters are missing:", missing);
  std::map<std::string, Borrowed> arrays;
  for (const auto& [key, value] : given) {
    const std::string name = py::cast<std::string>(key);
    const ParamSpec* s = params.find(name);
    BG_CHECK(s != nullptr, "unknown parameter", name);
    Borrowed a = borrow(value, "parameter " + name, &ctx);
    Shape shape;
    BG_CHECK(a.shape.size() <= Shape::kMaxRank, name, "has", a.shape.size(), "dimensions");
    for (int64_t n : a.shape) shape.push_back(n);
    BG_CHECK(shape == s->shape, "parameter", name, "has shape", shape.str(), "but the model's is", s->shape.str());
    BG_CHECK(is_float(a), "parameter", name, "does not hold floating-point numbers");
    arrays.emplace(name, std::move(a));
  }
  for (const ParamSpec& s : params.specs()) copy_from(ctx, arrays.at(s.name), ParamTable::view(s, params.values()));
  params.refresh_operands(ctx);
  synchronise(ctx);  // then the owners may change the arrays again
}

std::shared_ptr<Model> make(const Config& config, const std::string& device, const std::string& dtype, uint64_t seed,
                            int threads) {
  const py::gil_scoped_release release;
  return std::make_shared<Model>(config, ctx_named(device, dtype, threads), seed);
}

py::list rows_of(std::span<const ParamSpec> specs) {
  py::list rows;
  for (const ParamSpec& s : specs) {
    py::dict row;
    row["name"] = s.name;
    row["shape"] = py::tuple(py::cast(dims_of(s.shape)));
    row["group"] = name_of(s.group);
    row["codec"] = name_of(s.codec);
    row["averaged"] = s.averaging == Averaging::on;
    rows.append(row);
  }
  return rows;
}

// Declares, and allocates nothing.
py::list declared(const Config& config) {
  config.validate();
  const std::unique_ptr<System> system = make_system(config, 0);
  ParamTable params;
  system->declare(params);
  return rows_of(params.specs());
}

void bind_losses(py::module_& m) {
  py::class_<Losses>(m, "Losses", "Means over the scored positions, in nats; total is what backward() differentiates.")
#define BG_LOSS(name, part, scheduled, weight, doc) .def_readonly(#name, &Losses::name, doc)
#include "model/losses.def"
      .def_readonly("total", &Losses::total, "The weighted sum of all parts.")
      .def(
          "as_dict",
          [](const Losses& l) {
            py::dict out;
            for (int64_t i = 0; i < kNumLosses; ++i) out[kLosses[i].name] = l[i];
            out["total"] = l.total;
            return out;
          },
          "Name -> nats, total last.")
      .def("__repr__", [](const Losses& l) {
        std::string out = "Losses(";
        for (int64_t i = 0; i < kNumLosses; ++i) out += std::string(kLosses[i].name) + "=" + words(l[i]) + ", ";
        return out + "total=" + words(l.total) + ")";
      });
}

}  // namespace

void bind_model(py::module_& m) {
  bind_losses(m);
  m.def("declared_parameters", &declared, py::arg("config"),
        "Model(config).specs() without the model: nothing is allocated. ValueError as there.");
  py::class_<Model, std::shared_ptr<Model>>(m, "Model", "Parameters, forward, loss and backward; see bytegolf.Model.")
      .def(py::init(&make), py::arg("config"), py::arg("device") = "cpu", py::arg("dtype") = "float32",
           py::arg("seed") = 0, py::arg("threads") = 0)
      .def_property_readonly(
          "config", [](const Model& self) { return self.config(); }, "The options this model was made with.")
      .def_property_readonly(
          "dtype", [](const Model& self) { return name_of(self.ctx().dtype); },
          "Dtype of the computation: float32, float64 or bfloat16.")
      .def_property_readonly(
          "device", [](const Model& self) { return name_of(self.ctx().device); },
          "Device of the parameters: cpu or cuda.")
      .def_property_readonly(
          "threads", [](const Model& self) { return self.ctx().pool->size(); }, "Threads that work on the CPU.")
      .def_property_readonly(
          "num_parameters", [](const Model& self) { return self.params().numel(); }, "Elements of all parameters.")
      .def("parameters", [](const Model& self) { return dict_of(self, self.params().values()); })
      .def("gradients", [](const Model& self) { return dict_of(self, self.params().grads()); })
      .def("views", [](const std::shared_ptr<Model>& self) { return views_of(self, self->params().values()); })
      .def("gradient_views", [](const std::shared_ptr<Model>& self) { return views_of(self, self->params().grads()); })
      .def("operand_views",
           [](const std::shared_ptr<Model>& self) {
             py::dict out = views_of(self, self->params().operands());
             for (const auto& [name, view] : out) view.cast<Array&>().read_only = true;
             return out;
           })
      .def(
          "refresh",
          [](Model& self, const std::optional<StreamHandle>& stream) {
            if (stream)
              wait_for(self.ctx(), *stream);
            else
              wait_for_all(self.ctx());
            self.params().refresh_operands(self.ctx());
          },
          py::arg("stream") = py::none(), py::call_guard<py::gil_scoped_release>())
      .def(
          "synchronise", [](const Model& self) { synchronise(self.ctx()); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "specs", [](const Model& self) { return rows_of(self.params().specs()); },
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
          "logits_view",
          [](Model& self, const Ids& ids) {
            check_2d(ids, "ids");
            const py::gil_scoped_release release;
            const Tensor t = self.logits(span_of(ids), ids.shape(0), ids.shape(1));
            return Array{t, self.activations(), self.ctx()};
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
            BG_CHECK(B >= 1 && T >= 1, "nll needs at least two ids per row, got shape", B, ids.shape(1));
            const int64_t padded =
                (T + K - 1) / K * K;  // a patch model takes whole patches; what comes after T is not scored
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
           "Where the activations of the last call are: a table of lifetime, name, shape, offset and bytes.");

  // Holds the model for as long as it runs.
  struct Writing {
    std::shared_ptr<Model> model;
    Generation run;
  };
  py::class_<Writing>(m, "Generation", "Bytes that follow prompts, one of each row at a time; see bytegolf.Model.")
      .def(
          py::init([](std::shared_ptr<Model> model, const std::vector<py::bytes>& prompts, int64_t n,
                      double temperature, uint64_t seed, double top_p, const std::vector<py::bytes>& stop, bool cache) {
            Sampling sampling{temperature, top_p, seed, {stop.begin(), stop.end()}, cache};
            const std::vector<std::string> texts(prompts.begin(), prompts.end());
            Model& ref = *model;
            return std::unique_ptr<Writing>(
                new Writing{std::move(model), Generation(ref, texts, n, std::move(sampling))});
          }),
          py::arg("model"), py::arg("prompts"), py::arg("n"), py::arg("temperature") = 1.0, py::arg("seed") = 0,
          py::arg("top_p") = 1.0, py::arg("stop") = py::list(), py::arg("cache") = true)
      .def("advance",
           [](Writing& self) {
             std::span<const std::pair<int64_t, uint8_t>> drawn;
             {
               const py::gil_scoped_release release;
               drawn = self.run.advance();
             }
             std::vector<std::pair<int64_t, py::bytes>> out;
             for (const auto& [row, byte] : drawn) {
               const char c = static_cast<char>(byte);
               out.emplace_back(row, py::bytes(&c, 1));
             }
             return out;
           })
      .def(
          "end", [](Writing& self, int64_t row) { self.run.end(row); }, py::arg("row"))
      .def(
          "text", [](const Writing& self, int64_t row) { return py::bytes(self.run.text(row)); }, py::arg("row"));

  // Holds the stream and the model for as long as it runs.
  struct Scoring {
    std::shared_ptr<Model> model;
    Ids stream;
    Evaluation evaluation;
  };
  py::class_<Scoring>(m, "Evaluation", "Scores a stream of ids a few windows at a time; see bytegolf.evaluate.")
      .def(py::init([](std::shared_ptr<Model> model, const Ids& stream, int64_t window, int64_t stride, int64_t part,
                       int64_t parts) {
             BG_CHECK(stream.ndim() == 1, "a stream of ids has one dimension, got", stream.ndim());
             Model& ref = *model;
             return std::unique_ptr<Scoring>(
                 new Scoring{std::move(model), stream, Evaluation(ref, span_of(stream), window, stride, part, parts)});
           }),
           py::arg("model"), py::arg("stream"), py::arg("window"), py::arg("stride"), py::arg("part") = 0,
           py::arg("parts") = 1)
      .def(
          "advance", [](Scoring& self) { return self.evaluation.advance(); }, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("total",
                             [](const Scoring& self) { return self.evaluation.last() - self.evaluation.first(); })
      .def_property_readonly("first", [](const Scoring& self) { return self.evaluation.first(); })
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
