// Which libraries can multiply matrices on this machine: the built-in kernel always, oneDNN and OpenBLAS where found.
#pragma once

#include <string>
#include <vector>

#include "base/ctx.h"
#include "tensor/tensor.h"

namespace bg {

struct GemmLibraryInfo {
  GemmLibrary library;
  std::string name;  // "builtin", "onednn", "openblas"
  bool available;
  std::string detail;  // version, instruction set or core, file; or why it is not available
};

/// Looks the library up, once per process: oneDNN as libdnnl.so.3 or .2, OpenBLAS as libscipy_openblas.so or
/// libopenblas.so.0, first in the folders added, then where the dynamic linker looks.
const GemmLibraryInfo& gemm_library_info(GemmLibrary library);

/// One row for each, the built-in one first. Does not throw for those that are missing.
std::vector<GemmLibraryInfo> gemm_libraries();

/// A folder to search before the system's. Call it before the first look-up; later calls have no effect.
void add_gemm_library_folder(const std::string& folder);

/// The library of that name; throws InvalidArgument naming the known ones.
GemmLibrary parse_gemm_library(const std::string& name);

namespace cpu {
/// gemm() of kernels/gemm.h by ctx.gemm_library: float32 on the CPU, shapes already checked, K > 0. Throws
/// InvalidArgument when the library is not available, reports an error, or cannot count that many elements.
void library_gemm(const Ctx& ctx, float alpha, Tensor a, bool transpose_a, Tensor b, bool transpose_b, float beta,
                  Tensor c);
}  // namespace cpu
}  // namespace bg
