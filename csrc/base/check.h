// How errors are raised: one exception type per kind of fault, each message carrying file:line and the values.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace bg {

/// A caller's mistake: a wrong shape, option or argument. Becomes ValueError in Python.
struct InvalidArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Bytes from outside (shard, artifact, checkpoint) that are not what they claim. Becomes bytegolf.FormatError.
struct FormatError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// The system refused: disk, memory, threads. Becomes OSError when an errno is known (the message ends with its text).
struct SystemError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// NaN or infinity where a finite number is required; the message names the tensor. Becomes bytegolf.NumericsError.
struct NumericsError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Joins its arguments with spaces: words("T of", name, 7) == "T of NAME 7".
template <class... Parts>
std::string words(const Parts&... parts) {
  std::ostringstream out;
  out.precision(10);
  const char* gap = "";
  ((out << gap << parts, gap = " "), ...);
  return out.str();
}

namespace detail {
template <class... Parts>
[[noreturn]] void check_failed(const char* file, int line, const char* expr, const Parts&... parts) {
  std::string path(file);
  if (auto at = path.rfind("csrc/"); at != std::string::npos) path = path.substr(at);
  throw InvalidArgument(words(parts...) + "  [" + expr + ", " + path + ":" + std::to_string(line) + "]");
}
}  // namespace detail

/// BG_CHECK(cond, "words and", values): throws InvalidArgument with the words, the condition, file and line.
#define BG_CHECK(cond, ...)                                                          \
  do {                                                                               \
    if (!(cond)) ::bg::detail::check_failed(__FILE__, __LINE__, #cond, __VA_ARGS__); \
  } while (false)

}  // namespace bg
