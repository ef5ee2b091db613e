#include "base/cuda_libraries.h"

#include <dlfcn.h>

#include <cstdint>
#include <functional>
#include <mutex>

#include "base/check.h"
#include "base/library_folders.h"

namespace bg {
namespace {

LibraryFolders& folders() {
  static LibraryFolders f;
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
  folders().add(folder);
}

CudaLibrary open_cuda_library(std::initializer_list<const char*> sonames) {
  const std::vector<std::string> places = folders().all();
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

namespace {

// Opened once per process, by the first call that succeeds.
struct Once {
  std::mutex mutex;
  CudaLibrary library;
  CudaLibrary open(std::initializer_list<const char*> sonames, const char* symbol) {
    std::lock_guard lock(mutex);
    if (library.handle != nullptr) return library;
    library = open_cuda_library(sonames);
    if (library.handle != nullptr) library.path = file_of(library.handle, symbol, library.path);
    return library;
  }
};

CudaLibraryReport describe(const char* name, const CudaLibrary& library, const char* version_symbol,
                           const std::function<int(void*, int64_t&)>& ask) {
  CudaLibraryReport row{name, library.path, "", "", true};
  if (library.handle == nullptr) {
    row.problem = "not found; tried: " + library.tried;
    return row;
  }
  int64_t v = 0;
  void* const symbol = dlsym(library.handle, version_symbol);
  if (symbol == nullptr || ask(symbol, v) != 0)
    row.problem = library.path + " does not answer " + version_symbol;
  else
    row.version = std::to_string(v / 10000) + "." + std::to_string(v / 100 % 100) + "." + std::to_string(v % 100);
  return row;
}

}  // namespace

CudaLibrary open_cublas() {
  static Once once;
  return once.open({"libcublasLt.so.13", "libcublasLt.so.12"}, "cublasLtGetVersion");
}

CudaLibrary open_nccl() {
  static Once once;
  return once.open({"libnccl.so.2"}, "ncclGetVersion");
}

std::vector<CudaLibraryReport> cuda_library_report() {
  const auto cublas = describe("cuBLASLt", open_cublas(), "cublasLtGetVersion", [](void* symbol, int64_t& version) {
    version = static_cast<int64_t>(reinterpret_cast<size_t (*)()>(symbol)());
    return 0;
  });
  auto nccl = describe("NCCL", open_nccl(), "ncclGetVersion", [](void* symbol, int64_t& version) {
    int found = 0;
    const int status = reinterpret_cast<int (*)(int*)>(symbol)(&found);
    version = found;
    return status;
  });
  nccl.always = false;
  return {cublas, nccl};
}

}  // namespace bg
