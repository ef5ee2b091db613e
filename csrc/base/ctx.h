// What every kernel call carries: where it runs and with which threads or stream.
#pragma once

#include <memory>

#include "base/check.h"
#include "base/dtype.h"
#include "base/threads.h"

namespace bg {

namespace cuda {
class Context;  // stream, cuBLASLt handle, scratch; see base/cuda/context.h
}

/// Library for float32 matrix products on the CPU. All but the built-in one are found at run time; see
/// kernels/gemm_library.h.
enum class GemmLibrary : uint8_t { builtin, onednn, openblas };

struct Ctx {
  Device device = Device::cpu;
  /// Of activations and matrix operands. bf16 (CUDA only) keeps parameters, gradients, moments and statistics in f32.
  DType dtype = DType::f32;
  std::shared_ptr<ThreadPool> pool;  // CPU work
  GemmLibrary gemm_library = GemmLibrary::builtin;
  std::shared_ptr<cuda::Context> cuda;  // null on the CPU

  /// Of parameters, gradients, moments, and of what is kept in full: norms' roots, logarithms, logits, angles.
  DType full_dtype() const { return dtype == DType::bf16 ? DType::f32 : dtype; }
};

// The only #ifdef about CUDA: everything else uses these.
#ifdef BYTEGOLF_CUDA
inline constexpr bool kBuiltWithCuda = true;
#define BG_CUDA_CALL(call) ::bg::cuda::call
#else
inline constexpr bool kBuiltWithCuda = false;
#define BG_CUDA_CALL(call) throw ::bg::InvalidArgument("built without CUDA: device cuda")
#endif

/// Calls bg::cpu::CALL or bg::cuda::CALL.
#define BG_DISPATCH(where, call)        \
  do {                                  \
    if ((where) == ::bg::Device::cpu) { \
      ::bg::cpu::call;                  \
    } else {                            \
      BG_CUDA_CALL(call);               \
    }                                   \
  } while (false)

/// Declares bg::cuda::NAME with the signature of bg::NAME.
#define BG_CUDA_DECLARE(name)       \
  namespace bg::cuda {              \
  extern decltype(::bg::name) name; \
  }

/// Runs body with T = float or double, as dtype says.
#define BG_FLOATS(dtype_, T, ...)                                                                        \
  do {                                                                                                   \
    if ((dtype_) == ::bg::DType::f32) {                                                                  \
      using T = float;                                                                                   \
      __VA_ARGS__;                                                                                       \
    } else {                                                                                             \
      BG_CHECK((dtype_) == ::bg::DType::f64, "expected float32 or float64, got", ::bg::name_of(dtype_)); \
      using T = double;                                                                                  \
      __VA_ARGS__;                                                                                       \
    }                                                                                                    \
  } while (false)

}  // namespace bg
