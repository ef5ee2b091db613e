// NVTX is header-only, but a package of its own: a build without it has no ranges.
#include "base/cuda/profile_range.h"

#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>

namespace bg::cuda {
ProfileRange::ProfileRange(const char* name) {
  nvtxRangePushA(name);
}
ProfileRange::~ProfileRange() {
  nvtxRangePop();
}
}  // namespace bg::cuda
#else
namespace bg::cuda {
ProfileRange::ProfileRange(const char*) {}
ProfileRange::~ProfileRange() {}
}  // namespace bg::cuda
#endif
