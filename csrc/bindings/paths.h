// How paths cross: as the bytes that the file system knows, whatever the locale and whether or not they are UTF-8.
#pragma once

#include <string>

#include "bindings/bindings.h"

namespace bg::bindings {

/// A path as the system knows it. From Python: str, bytes or os.PathLike of either, as os.fsencode reads them;
/// characters that the locale cannot write (an option that was stored as UTF-8, read under LC_ALL=C) become UTF-8.
struct PathBytes {
  std::string bytes;
};

/// Words for a message, which may name a path: a str with any surrogates in it. See message_text().
struct MessageWords {
  std::string bytes;
};

/// The path of `item`, or TypeError; ValueError for a null byte.
inline std::string path_bytes(py::handle item) {
  py::object path = py::reinterpret_steal<py::object>(PyOS_FSPath(item.ptr()));
  if (!path) throw py::error_already_set();
  if (PyUnicode_Check(path.ptr())) {
    PyObject* encoded = PyUnicode_EncodeFSDefault(path.ptr());
    if (encoded == nullptr) {
      PyErr_Clear();
      encoded = PyUnicode_AsEncodedString(path.ptr(), "utf-8", "surrogateescape");
    }
    if (encoded == nullptr) throw py::error_already_set();
    path = py::reinterpret_steal<py::object>(encoded);
  }
  char* data = nullptr;
  py::ssize_t size = 0;
  if (PyBytes_AsStringAndSize(path.ptr(), &data, &size) != 0) throw py::error_already_set();
  std::string bytes(data, static_cast<size_t>(size));
  if (bytes.find('\0') != std::string::npos) throw py::value_error("a path holds a null byte");
  return bytes;
}

/// The str that os.fsdecode makes of a path: what is not text in the file system's encoding becomes lone surrogates.
inline py::str path_text(const std::string& bytes) {
  PyObject* text = PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<py::ssize_t>(bytes.size()));
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

/// A message that may name such a path. UTF-8; other bytes become lone surrogates, so that raising never fails itself.
inline py::str message_text(const char* bytes) {
  PyObject* text =
      PyUnicode_DecodeUTF8(bytes, static_cast<py::ssize_t>(std::char_traits<char>::length(bytes)), "surrogateescape");
  if (text == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(text);
}

}  // namespace bg::bindings

namespace pybind11::detail {

template <>
struct type_caster<bg::bindings::PathBytes> {
  PYBIND11_TYPE_CASTER(bg::bindings::PathBytes, const_name("os.PathLike[str] | str | bytes"));
  bool load(handle source, bool) {
    try {
      value.bytes = bg::bindings::path_bytes(source);
    } catch (const error_already_set& error) {
      if (!error.matches(PyExc_TypeError)) throw;
      return false;
    }
    return true;
  }
};

template <>
struct type_caster<bg::bindings::MessageWords> {
  PYBIND11_TYPE_CASTER(bg::bindings::MessageWords, const_name("str"));
  bool load(handle source, bool) {
    if (!PyUnicode_Check(source.ptr())) return false;
    PyObject* encoded = PyUnicode_AsEncodedString(source.ptr(), "utf-8", "surrogateescape");
    if (encoded == nullptr) {
      PyErr_Clear();
      encoded = PyUnicode_AsEncodedString(source.ptr(), "utf-8", "backslashreplace");
    }
    if (encoded == nullptr) throw error_already_set();
    value.bytes = reinterpret_steal<bytes>(encoded);
    return true;
  }
};

}  // namespace pybind11::detail
