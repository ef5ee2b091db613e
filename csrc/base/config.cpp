#include "base/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>

#include "base/check.h"
#include "base/option_lines.h"

namespace bg {
namespace {

constexpr OptionInfo kOptions[] = {
#define BG_INT(section, name, def, low, high, doc) \
  {Section::section, OptionType::integer, #name, static_cast<double>(low), static_cast<double>(high), "", doc},
#define BG_REAL(section, name, def, low, high, doc) {Section::section, OptionType::real, #name, low, high, "", doc},
#define BG_BOOL(section, name, def, doc) {Section::section, OptionType::boolean, #name, 0, 1, "", doc},
#define BG_TEXT(section, name, def, choices, doc) {Section::section, OptionType::text, #name, 0, 0, choices, doc},
#include "base/config.def"
};

// Calls f(info, member) for every option, in table order.
template <class C, class F>
void visit(C& config, F&& f) {
  size_t i = 0;
#define BG_INT(section, name, def, low, high, doc) f(kOptions[i++], config.name);
#define BG_REAL(section, name, def, low, high, doc) f(kOptions[i++], config.name);
#define BG_BOOL(section, name, def, doc) f(kOptions[i++], config.name);
#define BG_TEXT(section, name, def, choices, doc) f(kOptions[i++], config.name);
#include "base/config.def"
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replace = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replace, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

std::string real_text(double v) {
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, v).ptr;  // shortest form that reads back equal
  std::string s(buffer, end);
  if (s.find_first_of(".en") == std::string::npos) s += ".0";
  return s;
}

std::string quoted(const std::string& s) {
  std::string out = "\"";
  for (char c : s) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

[[noreturn]] void refuse(const OptionInfo& info, std::string_view value, const std::string& why) {
  throw InvalidArgument(words("option", info.name, "=", value, why, " (" + std::string(info.doc) + ")"));
}

std::string digits_plain(std::string_view s) {  // TOML allows 49_152
  std::string out;
  for (char c : s)
    if (c != '_') out += c;
  if (!out.empty() && out[0] == '+') out.erase(0, 1);
  return out;
}

void assign(const OptionInfo& info, int64_t& to, std::string_view value) {
  const std::string s = digits_plain(value);
  int64_t v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc() || end != s.data() + s.size()) refuse(info, value, "is not an integer");
  if (static_cast<double>(v) < info.low || static_cast<double>(v) > info.high)
    refuse(
        info, value,
        words("is outside", static_cast<int64_t>(info.low), "to", static_cast<int64_t>(std::min(info.high, 9.2e18))));
  to = v;
}
void assign(const OptionInfo& info, double& to, std::string_view value) {
  const std::string s = digits_plain(value);
  double v = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), v);
  if (error != std::errc() || end != s.data() + s.size()) refuse(info, value, "is not a number");
  if (!(v >= info.low && v <= info.high)) refuse(info, value, words("is outside", info.low, "to", info.high));
  to = v;
}
void assign(const OptionInfo& info, bool& to, std::string_view value) {
  if (value == "true" || value == "True" || value == "1")
    to = true;
  else if (value == "false" || value == "False" || value == "0")
    to = false;
  else
    refuse(info, value, "is neither true nor false");
}
void assign(const OptionInfo& info, std::string& to, std::string_view value) {
  std::string v;
  if (value.size() >= 2 && (value.front() == '"' || value.front() == '\'') && value.back() == value.front()) {
    const bool escapes = value.front() == '"';
    value = value.substr(1, value.size() - 2);
    for (size_t i = 0; i < value.size(); ++i) {
      if (escapes && value[i] == '\\' && i + 1 < value.size()) ++i;
      v += value[i];
    }
  } else {
    v = value;
  }
  for (char c : v)
    if (static_cast<unsigned char>(c) < 32) refuse(info, value, "holds a control character");
  if (*info.choices != '\0') {
    std::string_view rest = info.choices;
    for (;;) {
      const size_t bar = rest.find('|');
      if (rest.substr(0, bar) == v) break;
      if (bar == std::string_view::npos) refuse(info, value, "is not one of " + std::string(info.choices));
      rest.remove_prefix(bar + 1);
    }
  }
  to = v;
}

std::string show(int64_t v) {
  return std::to_string(v);
}
std::string show(double v) {
  return real_text(v);
}
std::string show(bool v) {
  return v ? "true" : "false";
}
std::string show(const std::string& v) {
  return quoted(v);
}

std::string unknown(std::string_view name) {
  const std::string near = nearest_option(name);
  return words("unknown option", name) + (near.empty() ? "" : "; did you mean " + near + "?");
}

struct Preset {
  const char* name;
  const char* parent;  // "" for the defaults of config.def
  const char* text;
};
constexpr Preset kPresets[] = {
    {"byte260-jepa", "", ""},
    {"byte260", "byte260-jepa", "jepa_chunk_size = 0"},
    {"byte256", "byte260-jepa", R"(
family = "byte256"
num_kv_heads = 8
rope_dims = 0
xsa_last_n = 0
ln_scale = false
bigram_hash = "product"
bigram_init = "normal"
jepa_chunk_size = 0
matrix_lr = 0.035
scalar_lr = 0.04
tied_embed_lr = 0.05
adam_wd = 0.0
muon_momentum_warmup_steps = 2500
warmdown_iters = 3500
train_budget_s = 600.0
swa_last_frac = 0.2
pack_scheme = "int6_byte256"
pack_weights = "best"
)"},
    {"byte256-jepa", "byte256", "jepa_pred_k = 4\njepa_weight = 0.1"},
    {"byte256-patch", "byte256", "patch_size = 4\ntie_embeddings = false"},
    {"demo", "byte260-jepa", R"(
num_layers = 4
model_dim = 192
num_heads = 3
num_kv_heads = 1
bigram_init = "normal"
jepa_latent_dim = 64
jepa_proj_hidden = 64
xsa_last_n = 2
seq_len = 512
iterations = 100000
train_budget_s = 120.0
train_batch_ids = 4096
micro_batch_ids = 4096
warmdown_iters = 300
muon_momentum_warmup_steps = 150
ema_decay = 0.98
shuffle = true
eval_stride = 128
)"},
};

}  // namespace

std::span<const OptionInfo> option_table() {
  return kOptions;
}

const char* name_of(Section s) {
  constexpr const char* kNames[] = {"model", "train", "run"};
  return kNames[static_cast<int>(s)];
}

std::string nearest_option(std::string_view name) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const OptionInfo& o : kOptions) {
    const size_t d = edit_distance(name, o.name);
    if (d < best_distance) best = o.name, best_distance = d;
  }
  return best;
}

std::vector<std::string> Config::preset_names() {
  std::vector<std::string> names;
  for (const Preset& p : kPresets) names.push_back(p.name);
  return names;
}

Config Config::preset(std::string_view name) {
  for (const Preset& p : kPresets)
    if (name == p.name) return parse(p.text, words("preset", name), *p.parent ? preset(p.parent) : Config{});
  std::string known;
  for (const Preset& p : kPresets) known += (known.empty() ? "" : ", ") + std::string(p.name);
  throw InvalidArgument(words("unknown preset", name, "; known:", known));
}

void Config::set(std::string_view name, std::string_view value) {
  bool found = false;
  visit(*this, [&](const OptionInfo& info, auto& member) {
    if (name == info.name) {
      assign(info, member, trim(value));
      found = true;
    }
  });
  if (!found) throw InvalidArgument(unknown(name));
}

std::string Config::get(std::string_view name) const {
  std::string out;
  bool found = false;
  visit(*this, [&](const OptionInfo& info, const auto& member) {
    if (name == info.name) out = show(member), found = true;
  });
  if (!found) throw InvalidArgument(unknown(name));
  return out;
}

std::string Config::text(std::span<const Section> sections, bool docs) const {
  std::ostringstream out;
  const char* gap = "";
  for (Section s : sections) {
    if (docs) out << gap << "# " << name_of(s) << "\n";
    gap = "\n";
    visit(*this, [&](const OptionInfo& info, const auto& member) {
      if (info.section != s) return;
      std::string line = std::string(info.name) + " = " + show(member);
      if (docs) {
        line.resize(std::max<size_t>(line.size(), 38), ' ');
        line += "  # " + std::string(info.doc);
      }
      out << line << "\n";
    });
  }
  return out.str();
}

Config Config::parse(std::string_view text, const std::string& source, const Config& base) {
  Config config = base;
  for_each_option(text, source, [&](std::string_view name, std::string_view value) { config.set(name, value); });
  return config;
}

int64_t Config::mlp_dim() const {
  return std::llround(mlp_mult * static_cast<double>(model_dim));
}

std::vector<int64_t> Config::window_lengths() const {
  std::vector<int64_t> windows;
  std::string_view rest = attn_windows;
  while (!trim(rest).empty()) {
    const size_t comma = rest.find(',');
    const std::string item(trim(rest.substr(0, comma)));
    int64_t w = -1;
    const auto [end, error] = std::from_chars(item.data(), item.data() + item.size(), w);
    BG_CHECK(error == std::errc() && end == item.data() + item.size() && w >= 0, "option attn_windows =", attn_windows,
             "must hold window lengths >= 0 and commas");
    windows.push_back(w);
    rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
  }
  return windows;
}

std::vector<std::vector<std::string>> Config::block_pattern() const {
  std::vector<std::vector<std::string>> pattern(1);
  std::istringstream in(block);
  for (std::string name; in >> name;) {
    if (name == "|")
      pattern.emplace_back();
    else
      pattern.back().push_back(name);
  }
  for (const auto& layers : pattern)
    BG_CHECK(!layers.empty(), "option block =", quoted(block),
             "has an empty part: it lists layers, and may put | between", "blocks that differ");
  return pattern;
}

namespace {

constexpr size_t kMaxVisits = 4096;

// Reads block numbers and groups "( ... )xN" up to the end or a closing bracket.
std::vector<int64_t> read_visits(std::string_view& rest, const std::string& whole, int depth) {
  const auto bad = [&](const std::string& why) {
    return InvalidArgument(words("option visits =", quoted(whole), why) +
                           "; it lists block numbers and groups such as (3 4 5)x2");
  };
  const auto number = [&] {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
    if (error != std::errc() || value < 0)
      throw bad(words("has", quoted(std::string(rest.substr(0, 8))), "where a number belongs"));
    rest.remove_prefix(static_cast<size_t>(end - rest.data()));
    return value;
  };
  std::vector<int64_t> out;
  for (rest = trim(rest); !rest.empty() && rest.front() != ')'; rest = trim(rest)) {
    if (rest.front() != '(') {
      out.push_back(number());
    } else {
      if (depth == 8) throw bad("nests more than 8 groups");
      rest.remove_prefix(1);
      const std::vector<int64_t> group = read_visits(rest, whole, depth + 1);
      if (rest.empty()) throw bad("has an open bracket");
      rest.remove_prefix(1);
      if (rest.empty() || rest.front() != 'x') throw bad("has a group without its count");
      rest.remove_prefix(1);
      const int64_t times = number();
      if (times < 1 || static_cast<size_t>(times) * std::max<size_t>(group.size(), 1) > kMaxVisits)
        throw bad("repeats a group too often or not at all");
      for (int64_t i = 0; i < times; ++i) out.insert(out.end(), group.begin(), group.end());
    }
    if (out.size() > kMaxVisits) throw bad(words("makes more than", kMaxVisits, "visits"));
  }
  return out;
}

}  // namespace

std::vector<int64_t> Config::visit_order() const {
  std::string_view rest = visits;
  std::vector<int64_t> order = read_visits(rest, visits, 0);
  BG_CHECK(rest.empty(), "option visits =", quoted(visits), "closes a bracket that it did not open");
  return order;
}

void Config::validate() const {
  BG_CHECK(model_dim % num_heads == 0, "option model_dim =", model_dim, "is not a multiple of num_heads =", num_heads);
  BG_CHECK(num_heads % num_kv_heads == 0, "option num_heads =", num_heads,
           "is not a multiple of num_kv_heads =", num_kv_heads);
  BG_CHECK(rope_dims % 2 == 0 && rope_dims <= head_dim(), "option rope_dims =", rope_dims,
           "must be even and at most the head size", head_dim());
  BG_CHECK(rope_dims != 0 || head_dim() % 2 == 0, "option rope_dims = 0 rotates all dims, but the head size",
           head_dim(), "is odd");
  BG_CHECK(rotary_dims() != 2 || seq_len <= rope_train_len, "option rope_dims =", rotary_dims(),
           "cannot be stretched to seq_len =", seq_len);
  BG_CHECK(mlp_dim() >= 1, "option mlp_mult =", mlp_mult, "gives an empty MLP at model_dim =", model_dim);
  BG_CHECK(xsa_last_n <= num_layers, "option xsa_last_n =", xsa_last_n, "is more than num_layers =", num_layers);
  BG_CHECK(bigram_vocab_size != 1, "option bigram_vocab_size = 1: use 0 for none, or at least 2");
  BG_CHECK(jepa_chunk_size == 0 || jepa_latent_dim > 0,
           "option jepa_latent_dim = 0 with jepa_chunk_size =", jepa_chunk_size);
  BG_CHECK(jepa_chunk_size <= seq_len, "option jepa_chunk_size =", jepa_chunk_size,
           "is longer than seq_len =", seq_len);
  BG_CHECK(jepa_pred_k < seq_len, "option jepa_pred_k =", jepa_pred_k, "must be below seq_len =", seq_len);
  if (patch_size > 1) {
    BG_CHECK(family == "byte256", "option patch_size =", patch_size, "needs family = byte256");
    BG_CHECK(seq_len % patch_size == 0, "option seq_len =", seq_len, "is not a multiple of patch_size =", patch_size);
    BG_CHECK(jepa_pred_k == 0 && jepa_chunk_size == 0, "option patch_size =", patch_size,
             "cannot be combined with jepa_pred_k or jepa_chunk_size");
    BG_CHECK(!tie_embeddings, "option patch_size =", patch_size, "needs tie_embeddings = false");
    BG_CHECK(!doc_mask, "option patch_size =", patch_size, "cannot be combined with doc_mask");
  }
  BG_CHECK(!doc_mask || bos_id() >= 0, "option doc_mask = true needs a vocabulary with bos;", vocab_name(), "has none");
  BG_CHECK(parallel_last_n <= num_layers, "option parallel_last_n =", parallel_last_n,
           "is more than num_layers =", num_layers);
  window_lengths();
  block_pattern();
  const std::vector<int64_t> order = visit_order();
  std::vector<bool> visited(static_cast<size_t>(num_layers), order.empty());
  for (int64_t b : order) {
    BG_CHECK(b < num_layers, "option visits =", quoted(visits), "names block", b, "where num_layers =", num_layers);
    visited[static_cast<size_t>(b)] = true;
  }
  for (int64_t b = 0; b < num_layers; ++b)
    BG_CHECK(visited[static_cast<size_t>(b)], "option visits =", quoted(visits), "leaves out block", b);
  BG_CHECK(visits_start_frac < 1,
           "option visits_start_frac = 1: the order of visits would be scored, but never trained");
  BG_CHECK(jepa_phase1_frac + jepa_phase2_frac <= 1.0 + 1e-12, "options jepa_phase1_frac + jepa_phase2_frac exceed 1");
}

}  // namespace bg
