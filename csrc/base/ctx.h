// What every kernel call carries: where it runs and with which threads.
#pragma once

#include <memory>

#include "base/dtype.h"
#include "base/threads.h"

namespace bg {

/// Who multiplies float32 matrices on the CPU. The others are found at run time; see kernels/gemm_library.h.
enum class GemmLibrary : uint8_t { builtin, onednn, openblas };

struct Ctx {
  Device device = Device::cpu;
  DType dtype = DType::f32;          // of activations, parameters and gradients on this device
  std::shared_ptr<ThreadPool> pool;  // CPU work
  GemmLibrary gemm_library = GemmLibrary::builtin;
};

/// Calls bg::cpu::CALL or bg::cuda::CALL. The only place that knows whether CUDA was built in.
#define BG_DISPATCH(where, call)                                                                      \
  do {                                                                                                \
    if ((where) != ::bg::Device::cpu) throw ::bg::InvalidArgument("built without CUDA: device cuda"); \
    ::bg::cpu::call;                                                                                  \
  } while (false)

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
