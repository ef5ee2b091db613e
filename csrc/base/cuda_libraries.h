// Which CUDA libraries are on this machine. None is linked: each is found at run time, so that the module loads
// without them.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

namespace bg {

/// A folder to search before the system's (NVIDIA's Python packages keep their libraries in folders of their own). Call
/// it before the first use of the library.
void add_cuda_library_folder(const std::string& folder);

/// A library that stays open to the end of the process.
struct CudaLibrary {
  void* handle = nullptr;  // of dlopen; null when there is none
  std::string path;        // the file that was opened
  std::string tried;       // when there is none: every place that was tried, and the linker's message for the last one
};

/// Opens the first of `sonames` that is found. For each, in this order: one already in the process, the folders added,
/// where the dynamic linker looks, /usr/local/cuda/lib64.
CudaLibrary open_cuda_library(std::initializer_list<const char*> sonames);

/// cuBLASLt as matrix products use it: looked up once per process, by the first call that succeeds.
CudaLibrary open_cublas();

/// NCCL as ranks on several GPUs use it: looked up like cuBLASLt.
CudaLibrary open_nccl();

/// What `bytegolf doctor` reports about the libraries that kernels call.
struct CudaLibraryReport {
  std::string name;     // "cuBLASLt"
  std::string path;     // "" when there is none
  std::string version;  // "13.1.0"
  std::string problem;  // why it cannot be used; "" when it can
  bool always = true;   // false: only runs on several GPUs need it
};
std::vector<CudaLibraryReport> cuda_library_report();

}  // namespace bg
