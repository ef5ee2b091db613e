// What stored options mean, and whether two configs mean the same: by meaning, never by text, so that what older
// versions wrote stays valid when options are added.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"

namespace bg {

/// What a stored text means that holds no option at all. Texts are stored whole, so an option that one lacks was
/// declared after it was written and stands for what the program did before: its first default, which is today's unless
/// identity.cpp says otherwise.
Config absent_options();

/// Options as some version of bytegolf stored them in a checkpoint, log, artifact or run folder, over
/// `absent_options()`. Throws InvalidArgument like `Config::parse`; an option that is unknown here was written by a
/// newer version, and is named.
Config stored_options(std::string_view text, const std::string& source);

/// One option that two configs hold differently, with both values in text form.
struct OptionDifference {
  const char* name;
  std::string one, other;
};

/// The options of these sections in which two configs differ, in the order of config.def.
std::vector<OptionDifference> differences(const Config& one, const Config& other, std::span<const Section> sections);

/// `name = value` lines of the options of these sections that differ from `absent_options()`, sorted by name: equal
/// text for equal meaning in every version, whatever options are added, moved or given another default.
std::string canonical(const Config& config, std::span<const Section> sections);

}  // namespace bg
