// How options stand in a text: one `name = value` a line, which is valid TOML.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace bg {

inline std::string_view trim(std::string_view s) {
  while (!s.empty() && (s.front() == ' ' || s.front() == '\t' || s.front() == '\r')) s.remove_prefix(1);
  while (!s.empty() && (s.back() == ' ' || s.back() == '\t' || s.back() == '\r')) s.remove_suffix(1);
  return s;
}

// The value of `name = VALUE  # comment`, without the comment.
inline std::string_view strip_comment(std::string_view s) {
  char quote = 0;
  for (size_t i = 0; i < s.size(); ++i) {
    if (quote) {
      if (quote == '"' && s[i] == '\\')
        ++i;
      else if (s[i] == quote)
        quote = 0;
    } else if (s[i] == '"' || s[i] == '\'') {
      quote = s[i];
    } else if (s[i] == '#') {
      return s.substr(0, i);
    }
  }
  return s;
}

/// Calls set(name, value) for each line of `text`. Throws InvalidArgument naming `source` and the line for a line of
/// another form or a name that is there already; an InvalidArgument of `set` gets the same words in front.
template <class F>
void for_each_option(std::string_view text, const std::string& source, F&& set) {
  std::vector<std::string> seen;
  int number = 0;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    std::string_view line = trim(strip_comment(text.substr(0, end)));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    ++number;
    if (line.empty()) continue;
    const std::string where = source + ", line " + std::to_string(number) + ": ";
    const size_t equals = line.find('=');
    if (line.front() == '[' || equals == std::string_view::npos)
      throw InvalidArgument(where + "expected `name = value`, got `" + std::string(line.substr(0, 60)) + "`");
    const std::string name(trim(line.substr(0, equals)));
    if (std::find(seen.begin(), seen.end(), name) != seen.end())
      throw InvalidArgument(where + "option " + name + " is given twice");
    seen.push_back(name);
    try {
      set(name, line.substr(equals + 1));
    } catch (const InvalidArgument& error) {
      throw InvalidArgument(where + error.what());
    }
  }
}

}  // namespace bg
