// How a CPU body is reached: bg::cpu::foo has the signature of bg::foo and calls the version compiled for this
// processor.
//   kernels/foo.cpp      BG_DECLARE_BODIES(foo)   before its BG_DISPATCH; declares bg::cuda::foo (kernels/cuda/foo.cu)
//   too kernels/cpu/foo.cpp  BG_CPU_BODY(foo)      in namespace bg::cpu, under HWY_ONCE
#pragma once

#include "base/ctx.h"
#include "hwy/highway.h"

namespace bg::cpu {

template <class Signature>
struct Body;
template <class R, class... Args>
struct Body<R(Args...)> {
  R (*(*choose)())(Args...);
  R operator()(Args... args) const { return choose()(args...); }
};

}  // namespace bg::cpu

#define BG_DECLARE_BODIES(name)                 \
  namespace bg::cpu {                           \
  extern const Body<decltype(::bg::name)> name; \
  }                                             \
  BG_CUDA_DECLARE(name)
#define BG_CPU_BODY(name)                       \
  HWY_EXPORT(name);                             \
  extern const Body<decltype(::bg::name)> name; \
  constinit const Body<decltype(::bg::name)> name{[]() { return &HWY_DYNAMIC_DISPATCH(name); }};
