// Which architectures there are. To add one: a System in model/, a row here, its name in option `architecture`.
#include "model/system.h"

#include "base/check.h"
#include "model/unet.h"

namespace bg {

std::unique_ptr<System> make_system(const Config& config, uint64_t seed) {
  struct Architecture {
    const char* name;
    std::unique_ptr<System> (*make)(const Config&, uint64_t);
  };
  constexpr Architecture kArchitectures[] = {
      {"unet", [](const Config& c, uint64_t s) -> std::unique_ptr<System> { return std::make_unique<Unet>(c, s); }},
  };
  for (const Architecture& a : kArchitectures)
    if (config.architecture == a.name) return a.make(config, seed);
  throw InvalidArgument(words("option architecture names an unknown one:", config.architecture));
}

}  // namespace bg
