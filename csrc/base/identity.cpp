#include "base/identity.h"

#include <algorithm>

#include "base/check.h"
#include "base/option_lines.h"

namespace bg {

Config absent_options() {
  Config config;  // whoever changes a default keeps the first one here: config.set("name", "value")
  return config;
}

Config stored_options(std::string_view text, const std::string& source) {
  Config config = absent_options();
  const auto known = option_table();
  for_each_option(text, source, [&](std::string_view name, std::string_view value) {
    if (std::none_of(known.begin(), known.end(), [&](const OptionInfo& o) { return name == o.name; }))
      throw InvalidArgument(words("option", name, "is unknown to this version: a newer version of bytegolf wrote it"));
    config.set(name, value);
  });
  return config;
}

std::vector<OptionDifference> differences(const Config& one, const Config& other, std::span<const Section> sections) {
  std::vector<OptionDifference> found;
  for (const OptionInfo& option : option_table()) {
    if (std::find(sections.begin(), sections.end(), option.section) == sections.end()) continue;
    std::string a = one.get(option.name), b = other.get(option.name);
    if (a != b) found.push_back({option.name, std::move(a), std::move(b)});
  }
  return found;
}

std::string canonical(const Config& config, std::span<const Section> sections) {
  std::vector<OptionDifference> kept = differences(config, absent_options(), sections);
  std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return std::string_view(a.name) < b.name; });
  std::string out;
  for (const OptionDifference& option : kept) out += words(option.name, "=", option.one) + "\n";
  return out;
}

}  // namespace bg
