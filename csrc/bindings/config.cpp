// Config and its table of options, for Python.
#include "base/config.h"

#include "base/identity.h"
#include "bindings/bindings.h"
#include "bindings/paths.h"

namespace bg::bindings {
namespace {

std::vector<Section> sections_of(const std::vector<std::string>& names) {
  std::vector<Section> out;
  for (const std::string& n : names) {
    if (n == "model")
      out.push_back(Section::model);
    else if (n == "train")
      out.push_back(Section::train);
    else if (n == "run")
      out.push_back(Section::run);
    else
      throw py::value_error("unknown section " + n);
  }
  return out;
}

// Options are UTF-8. A value that came from a command line in another encoding is UTF-8 too if its bytes are.
std::string utf8(const std::string& name, const py::str& value) {
  PyObject* encoded = PyUnicode_AsUTF8String(value.ptr());
  if (encoded == nullptr) {
    PyErr_Clear();
    const std::string bytes = path_bytes(value);
    encoded = PyUnicode_DecodeUTF8(bytes.data(), static_cast<py::ssize_t>(bytes.size()), nullptr);
    if (encoded != nullptr) {
      Py_DECREF(encoded);
      return bytes;
    }
    PyErr_Clear();
    throw InvalidArgument("option " + name + " = " +
                          std::string(py::str(py::module_::import("builtins").attr("ascii")(value))) +
                          " is not UTF-8, as options must be; give that file or folder another name, or a link");
  }
  return py::reinterpret_steal<py::bytes>(encoded);
}

}  // namespace

void bind_config(py::module_& m) {
  py::class_<Config> c(m, "Config",
                       "Options of a run; see option_table(). Python treats it as immutable: bytegolf.Config.replace.");
  c.def(py::init<>());
#define BG_INT(section, name, def, low, high, doc) c.def_readonly(#name, &Config::name, doc);
#define BG_REAL(section, name, def, low, high, doc) c.def_readonly(#name, &Config::name, doc);
#define BG_BOOL(section, name, def, doc) c.def_readonly(#name, &Config::name, doc);
#define BG_TEXT(section, name, def, choices, doc) c.def_readonly(#name, &Config::name, doc);
#include "base/config.def"
  c.def_property_readonly("vocab_name", &Config::vocab_name,
                          "name of the vocabulary: option vocabulary, or the family's")
      .def_property_readonly("vocab_size", &Config::vocab_size, "ids; 260 or 256, by vocabulary")
      .def_property_readonly("byte_offset", &Config::byte_offset, "id of byte 0")
      .def_property_readonly("bos_id", &Config::bos_id, "id that starts a document, -1 where the vocabulary has none")
      .def_property_readonly("mlp_dim", &Config::mlp_dim, "elements; MLP width F")
      .def(
          "set", [](Config& self, const std::string& name, const py::str& value) { self.set(name, utf8(name, value)); },
          py::arg("name"), py::arg("value"),
          "Sets one option from its text form; ValueError when unknown or out of range.")
      .def("get", &Config::get, py::arg("name"), "Text form of one option.")
      .def("validate", &Config::validate, "ValueError when options contradict each other.")
      .def(
          "copy", [](const Config& self) { return self; }, "Another Config of the same options.")
      .def("__eq__", [](const Config& a, const Config& b) { return a == b; })
      .def(
          "text",
          [](const Config& self, const std::vector<std::string>& sections, bool docs) {
            return self.text(sections_of(sections), docs);
          },
          py::arg("sections") = std::vector<std::string>{"model", "train", "run"}, py::arg("docs") = false,
          "TOML of the sections asked for, one option a line.")
      .def(
          "canonical",
          [](const Config& self, const std::vector<std::string>& sections) {
            return canonical(self, sections_of(sections));
          },
          py::arg("sections") = std::vector<std::string>{"model", "train", "run"},
          "The options that differ from `absent()`, one a line, by name: equal text for equal meaning in every "
          "version.")
      .def(
          "differences",
          [](const Config& self, const Config& other, const std::vector<std::string>& sections) {
            std::vector<std::tuple<std::string, std::string, std::string>> rows;
            for (const OptionDifference& d : differences(self, other, sections_of(sections)))
              rows.emplace_back(d.name, d.one, d.other);
            return rows;
          },
          py::arg("other"), py::arg("sections") = std::vector<std::string>{"model", "train", "run"},
          "(name, own value, the other's value) of each option in which `other` differs, as text.")
      .def_static(
          "absent", &absent_options,
          "What a stored text without any option means: each option's first default, as before it was declared.")
      .def_static(
          "stored",
          [](const std::string& options, const MessageWords& source) { return stored_options(options, source.bytes); },
          py::arg("options"), py::arg("source"),
          "Options as some version stored them, over `absent()`; ValueError naming source, line and option, and "
          "that a newer version wrote an option that is unknown here.")
      .def_static("preset", &Config::preset, py::arg("name"), "A preset; ValueError listing the known names.")
      .def_static("preset_names", &Config::preset_names, "Names of the presets.")
      .def_static(
          "parse",
          [](const std::string& text, const MessageWords& source, const Config& base) {
            return Config::parse(text, source.bytes, base);
          },
          py::arg("text"), py::arg("source"), py::arg("base"),
          "`name = value` lines laid over `base`; ValueError naming source, line and option.");
  m.def(
      "option_table",
      [] {
        constexpr const char* kTypes[] = {"int", "float", "bool", "str"};
        py::list rows;
        for (const OptionInfo& o : option_table()) {
          py::dict row;
          row["section"] = name_of(o.section);
          row["type"] = kTypes[static_cast<int>(o.type)];
          row["name"] = o.name;
          row["low"] = o.low;
          row["high"] = o.high;
          row["choices"] = o.choices;
          row["doc"] = o.doc;
          rows.append(row);
        }
        return rows;
      },
      "One dict per option: section, type, name, low, high, choices, doc.");
  m.def(
      "nearest_option", [](const std::string& name) { return nearest_option(name); }, py::arg("name"));
}

}  // namespace bg::bindings
