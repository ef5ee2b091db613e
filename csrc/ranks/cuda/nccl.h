// NCCL as found at run time: nothing is linked, and no header of it is needed.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "base/check.h"

namespace bg::cuda {

// The part of NCCL's binary interface that is used; it has been the same since NCCL 2.10.
// Source: docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html
using NcclResult = int;  // 0: success
using NcclComm = void*;
struct NcclId {
  char internal[128];
};
enum NcclType : int { kNcclUint8 = 1, kNcclFloat32 = 7, kNcclFloat64 = 8 };
constexpr int kNcclSum = 0;

/// The entry points that are used.
struct Nccl {
  const char* (*GetErrorString)(NcclResult) = nullptr;
  const char* (*GetLastError)(NcclComm) = nullptr;
  NcclResult (*GetUniqueId)(NcclId*) = nullptr;
  NcclResult (*CommInitRank)(NcclComm*, int world, NcclId, int rank) = nullptr;
  NcclResult (*CommAbort)(NcclComm) = nullptr;
  NcclResult (*AllReduce)(const void*, void*, size_t, NcclType, int op, NcclComm, cudaStream_t) = nullptr;
  NcclResult (*AllGather)(const void*, void*, size_t count_of_one, NcclType, NcclComm, cudaStream_t) = nullptr;
  NcclResult (*Broadcast)(const void*, void*, size_t, NcclType, int root, NcclComm, cudaStream_t) = nullptr;
};

/// Looked up once per process. Throws SystemError naming every place that was tried.
const Nccl& nccl();

[[noreturn]] void nccl_failed(const char* file, int line, const char* expression, NcclResult result, NcclComm comm);

/// Throws SystemError with the expression, file:line and NCCL's words. comm: the communicator, for what it has to add;
/// may be null.
#define BG_NCCL(expr, comm)                                                  \
  do {                                                                       \
    if (const ::bg::cuda::NcclResult bg_result = (expr); bg_result != 0)     \
      ::bg::cuda::nccl_failed(__FILE__, __LINE__, #expr, bg_result, (comm)); \
  } while (false)

}  // namespace bg::cuda
