// What the core's text form of options does with any text: a Config that its own text gives back, or InvalidArgument.
//
// Most mutations put a line with a known option, and a value from near the edges, into the text.
#include <string>

#include "base/check.h"
#include "base/config.h"
#include "fuzz/input.h"

namespace bg::fuzz {
namespace {

std::string value_of(const OptionInfo& option, Draw& draw) {
  const auto number = [](double v) { return words(v); };
  switch (draw.below(8)) {
    case 0:
      return number(option.low);
    case 1:
      return number(option.high);
    case 2:
      return std::to_string(static_cast<int64_t>(draw.awkward()));
    case 3:
      return number(static_cast<double>(static_cast<int64_t>(draw.awkward())) * 1e-3);
    case 4:
      return draw.one_in(2) ? "true" : "false";
    case 5: {
      const char* kOdd[] = {"nan",   "inf", "-inf", "1e309",       "1e-320", "0x10",
                            "1_000", "+1",  "\"\"", "\"\\u0001\"", "",       "-0.0"};
      return kOdd[draw.below(std::size(kOdd))];
    }
    case 6: {
      const std::string choices = option.choices;
      const size_t at = draw.below(choices.size() + 1);
      return '"' + choices.substr(at, choices.find('|', at) - at) + '"';
    }
    default: {
      const char* kTexts[] = {"\"0 1 (2 3)x2 4\"",     "\"attention mlp | mlp\"", "\"256,256,0\"", "\"0-3\"",
                              "\"(0 1)x99999999999\"", "\"((0)x9)x9\"",           "\"#\"",         "'a' # b"};
      return kTexts[draw.below(std::size(kTexts))];
    }
  }
}

Bytes mutated(std::span<const uint8_t> given, Draw& draw, size_t room) {
  Bytes text(given.begin(), given.end());
  if (draw.one_in(4)) {
    mutate(text, std::min<size_t>(room, 32));
    return text;
  }
  if (text.size() > 1500 || draw.one_in(32)) text.clear();
  const auto options = option_table();
  const OptionInfo& option = options[draw.below(options.size())];
  std::string line = option.name;
  line.append(" = ").append(value_of(option, draw)).append("\n");
  size_t at = draw.below(text.size() + 1);  // at the beginning of a line
  while (at > 0 && text[at - 1] != '\n' && !draw.one_in(64)) --at;
  text.insert(text.begin() + static_cast<ptrdiff_t>(at), line.begin(), line.end());
  return text;
}

void try_it(std::string_view text) {
  try {
    const Config config = Config::parse(text, "fuzz.toml", Config{});
    constexpr Section kAll[] = {Section::model, Section::train, Section::run};
    require(Config::parse(config.text(kAll, true), "again.toml", Config{}) == config);
    config.validate();
    require(config.head_dim() * config.num_heads == config.model_dim);
    if (text.size() % 32 != 0) return;  // now and then: option by option
    for (const OptionInfo& option : option_table()) {
      Config one;
      one.set(option.name, config.get(option.name));
      require(one.get(option.name) == config.get(option.name));
    }
  } catch (const InvalidArgument&) {  // what a reader may say
  }
}

}  // namespace
}  // namespace bg::fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  bg::fuzz::try_it({reinterpret_cast<const char*>(data), size});
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  bg::fuzz::Draw draw(seed);
  return bg::fuzz::give(bg::fuzz::mutated({data, size}, draw, max_size - size), data, max_size);
}
