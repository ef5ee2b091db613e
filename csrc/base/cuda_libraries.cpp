#include "base/cuda_libraries.h"

#include <dlfcn.h>

#include <mutex>

#include "base/check.h"

namespace bg {
namespace {

struct Folders {
  std::mutex mutex;
  std::vector<std::string> names;
};
Folders& folders() {
  static Folders f;
  return f;
}

// The file that a handle stands for: the linker may have found it anywhere.
std::string file_of(void* handle, const char* symbol, const std::string& otherwise) {
  Dl_info info;
  void* const address = dlsym(handle, symbol);
  if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr) return otherwise;
  return info.dli_fname;
}

}  // namespace

void add_cuda_library_folder(const std::string& folder) {
  std::lock_guard lock(folders().mutex);
  folders().names.push_back(folder);
}

CudaLibrary open_cuda_library(std::initializer_list<const char*> sonames) {
  std::vector<std::string> places;
  {
    std::lock_guard lock(folders().mutex);
    places = folders().names;
  }
  CudaLibrary found;
  std::string said;
  const auto opens = [&](const std::string& file, int more) {
    found.handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | more);
    if (found.handle != nullptr) {
      found.path = file;
      return true;
    }
    const char* error = dlerror();
    if (more == 0) {
      found.tried += (found.tried.empty() ? "" : ", ") + file;
      said = error != nullptr ? error : "";
    }
    return false;
  };
  for (const std::string soname : sonames) {
    if (opens(soname, RTLD_NOLOAD)) break;
    for (const std::string& folder : places)
      if (opens(folder + "/" + soname, 0)) break;
    if (found.handle != nullptr || opens(soname, 0) || opens("/usr/local/cuda/lib64/" + soname, 0)) break;
  }
  if (found.handle != nullptr)
    found.tried.clear();
  else
    found.tried += " (" + said + ")";
  return found;
}

CudaLibrary open_cublas() {
  static std::mutex mutex;
  static CudaLibrary library;
  std::lock_guard lock(mutex);
  if (library.handle != nullptr) return library;
  library = open_cuda_library({"libcublasLt.so.13", "libcublasLt.so.12"});
  if (library.handle != nullptr) library.path = file_of(library.handle, "cublasLtGetVersion", library.path);
  return library;
}

std::vector<CudaLibraryReport> cuda_library_report() {
  CudaLibraryReport cublas{"cuBLASLt", "", "", ""};
  const CudaLibrary library = open_cublas();
  if (library.handle == nullptr) {
    cublas.problem = "not found; tried: " + library.tried;
    return {cublas};
  }
  cublas.path = library.path;
  if (const auto version = reinterpret_cast<size_t (*)()>(dlsym(library.handle, "cublasLtGetVersion"))) {
    const size_t v = version();
    cublas.version = std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  } else {
    cublas.problem = library.path + " has no cublasLtGetVersion";
  }
  return {cublas};
}

}  // namespace bg
