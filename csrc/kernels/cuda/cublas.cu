#include "kernels/cuda/cublas.h"

#include <dlfcn.h>

#include "base/cuda_libraries.h"

namespace bg::cuda {
namespace {

Cublas load() {
  const CudaLibrary library = open_cublas();
  if (library.handle == nullptr)
    throw SystemError("cuBLASLt, which multiplies matrices on the GPU, was not found; tried: " + library.tried);
  Cublas c;
#define BG_CUBLAS_ENTRY(name)                                                           \
  c.name = reinterpret_cast<decltype(c.name)>(dlsym(library.handle, "cublasLt" #name)); \
  if (c.name == nullptr) throw SystemError(library.path + " has no cublasLt" #name);
  BG_CUBLAS_ENTRIES(BG_CUBLAS_ENTRY)
#undef BG_CUBLAS_ENTRY
  return c;
}

}  // namespace

const Cublas& cublas() {
  static const Cublas c = load();
  return c;
}

void cublas_failed(const char* file, int line, const char* expression, cublasStatus_t status) {
  std::string path(file);
  if (const auto at = path.rfind("csrc/"); at != std::string::npos) path = path.substr(at);
  throw SystemError(words("cuBLASLt:", cublas().GetStatusName(status)) + "  [" + expression + ", " + path + ":" +
                    std::to_string(line) + "]");
}

}  // namespace bg::cuda
