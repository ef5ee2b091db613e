// Which layers a block can be made of. To add one: a class in model/, a row here, a line in its test.
#include "model/attention.h"
#include "model/layer.h"
#include "model/mlp.h"

namespace bg {
namespace {

template <class L>
std::unique_ptr<Layer> make(const StackSpec& stack, const LayerPlace& place) {
  return std::make_unique<L>(stack, place);
}

struct LayerEntry {
  const char* name;
  std::unique_ptr<Layer> (*make)(const StackSpec&, const LayerPlace&);
};
constexpr LayerEntry kLayers[] = {
    {"attention", make<Attention>},
    {"mlp", make<Mlp>},
};

}  // namespace

std::unique_ptr<Layer> make_layer(const std::string& name, const StackSpec& stack, const LayerPlace& place) {
  std::string known;
  for (const LayerEntry& entry : kLayers) {
    if (name == entry.name) return entry.make(stack, place);
    known += std::string(known.empty() ? "" : ", ") + entry.name;
  }
  throw InvalidArgument(words("option block names an unknown layer", name, "; known:", known));
}

}  // namespace bg
