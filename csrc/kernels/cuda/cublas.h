// cuBLASLt as found at run time. Its header gives types and constants only: nothing is linked.
#pragma once

#include <cublasLt.h>

#include "base/check.h"

namespace bg::cuda {

/// The entry points that are used.
struct Cublas {
#define BG_CUBLAS_ENTRIES(X)      \
  X(Create)                       \
  X(Destroy)                      \
  X(GetStatusName)                \
  X(Matmul)                       \
  X(MatmulAlgoGetHeuristic)       \
  X(MatmulDescCreate)             \
  X(MatmulDescDestroy)            \
  X(MatmulDescSetAttribute)       \
  X(MatmulPreferenceCreate)       \
  X(MatmulPreferenceDestroy)      \
  X(MatmulPreferenceSetAttribute) \
  X(MatrixLayoutCreate)           \
  X(MatrixLayoutDestroy)          \
  X(MatrixLayoutSetAttribute)
#define BG_CUBLAS_ENTRY(name) decltype(&::cublasLt##name) name = nullptr;
  BG_CUBLAS_ENTRIES(BG_CUBLAS_ENTRY)
#undef BG_CUBLAS_ENTRY
};

/// Looked up once per process. Throws SystemError naming every place that was tried.
const Cublas& cublas();

[[noreturn]] void cublas_failed(const char* file, int line, const char* expression, cublasStatus_t status);

/// Throws SystemError with the expression, file:line and the status' name.
#define BG_CUBLAS(expr)                                                              \
  do {                                                                               \
    if (const cublasStatus_t bg_status = (expr); bg_status != CUBLAS_STATUS_SUCCESS) \
      ::bg::cuda::cublas_failed(__FILE__, __LINE__, #expr, bg_status);               \
  } while (false)

}  // namespace bg::cuda
