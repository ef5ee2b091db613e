#include "kernels/cuda/tensor_map.h"

#include "base/cuda/context.h"

namespace bg::cuda {
namespace {

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                            const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                            CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// cuTensorMapEncodeTiled of the driver that is loaded already.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  BG_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw SystemError("CUDA: the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

bool can_map_heads(const Tensor& t) {
  if (t.rank() != 4 || t.dtype() != DType::bf16 || t.dim(3) != 64 || t.stride(3) != 1) return false;
  if (reinterpret_cast<uintptr_t>(t.data()) % 16 != 0) return false;
  for (int i = 0; i < 4; ++i)
    if (t.dim(i) < 1 || t.dim(i) > INT32_MAX) return false;
  for (int i = 0; i < 3; ++i)
    if (t.dim(i) > 1 && (t.stride(i) % 8 != 0 || t.stride(i) <= 0 || t.stride(i) >= int64_t{1} << 38)) return false;
  return true;
}

CUtensorMap map_heads(const Tensor& t, int rows) {
  static const Encode encode = find_encode();
  const auto stride_bytes = [&](int i) -> cuuint64_t {  // along a dimension of one element any will do
    return t.dim(i) > 1 ? static_cast<cuuint64_t>(t.stride(i)) * 2 : 128;
  };
  const cuuint64_t dims[4] = {64, static_cast<cuuint64_t>(t.dim(2)), static_cast<cuuint64_t>(t.dim(1)),
                              static_cast<cuuint64_t>(t.dim(0))};
  const cuuint64_t strides[3] = {stride_bytes(2), stride_bytes(1), stride_bytes(0)};
  const cuuint32_t box[4] = {64, 1, static_cast<cuuint32_t>(rows), 1};
  const cuuint32_t every[4] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, t.data(), dims, strides, box, every,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw SystemError(words("CUDA: cuTensorMapEncodeTiled refused a tensor of shape", t.shape().str(), "with error",
                            static_cast<int>(result)));
  return map;
}

}  // namespace bg::cuda
