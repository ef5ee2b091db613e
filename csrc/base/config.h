// Which options exist, what they hold, and how they are written as text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/vocab.h"

namespace bg {

enum class Section : uint8_t { model, train, run };
enum class OptionType : uint8_t { integer, real, boolean, text };

struct OptionInfo {
  Section section;
  OptionType type;
  const char* name;
  double low, high;     // of integers and reals, inclusive
  const char* choices;  // of texts, "a|b|c"; "" means any
  const char* doc;      // "unit; meaning"
};

/// The options of config.def as members, with their defaults, plus what follows from them.
struct Config {
#define BG_INT(section, name, def, low, high, doc) int64_t name = def;
#define BG_REAL(section, name, def, low, high, doc) double name = def;
#define BG_BOOL(section, name, def, doc) bool name = def;
#define BG_TEXT(section, name, def, choices, doc) std::string name = def;
#include "base/config.def"

  bool operator==(const Config&) const = default;

  /// Presets: byte260-jepa, byte260, byte256, byte256-jepa, byte256-patch, demo.
  static Config preset(std::string_view name);
  static std::vector<std::string> preset_names();

  /// Reads one `name = value` per line (valid TOML: comments, quoted text, true/false) over `base`.
  /// Checks names and ranges: throws InvalidArgument naming `source`, the line, and for an unknown name the nearest
  /// known.
  static Config parse(std::string_view text, const std::string& source, const Config& base);
  /// Sets one option from its text form; the value of a text option may be quoted or bare.
  void set(std::string_view name, std::string_view value);
  std::string get(std::string_view name) const;  // text form of one option
  /// Every option of the sections asked for, one per line, with its doc as a comment if wanted.
  std::string text(std::span<const Section> sections, bool docs) const;
  /// Throws InvalidArgument when options contradict each other.
  void validate() const;

  // What follows from the options.
  const std::string& vocab_name() const {
    return vocabulary == "auto" ? family : vocabulary;
  }
  const Vocab& vocab() const {
    return vocab_of(vocab_name());
  }
  int64_t vocab_size() const {
    return vocab().size;
  }
  int64_t byte_offset() const {
    return vocab().byte_offset;
  }  // id of byte 0
  int64_t bos_id() const {
    return vocab().bos;
  }  // -1: none
  int64_t head_dim() const {
    return model_dim / num_heads;
  }
  int64_t mlp_dim() const;
  int64_t rotary_dims() const {
    return rope_dims == 0 ? head_dim() : rope_dims;
  }
  std::vector<int64_t> window_lengths() const;                  // ids, repeated over the blocks; 0: unlimited
  std::vector<std::vector<std::string>> block_pattern() const;  // layers of a block, repeated over the blocks
  std::vector<int64_t> visit_order() const;                     // blocks; empty: each once
};

/// One row per option, in the order of config.def.
std::span<const OptionInfo> option_table();
/// The known name nearest to `name`, or "" when none is close.
std::string nearest_option(std::string_view name);
const char* name_of(Section s);

}  // namespace bg
