// How a CPU body is reached: bg::cpu::foo has the signature of bg::foo and calls the version compiled for this
// processor.
//   kernels/foo.cpp      BG_CPU_DECLARE(foo)   before its BG_DISPATCH
//   kernels/cpu/foo.cpp  BG_CPU_BODY(foo)      in namespace bg::cpu, under HWY_ONCE
#pragma once

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

#define BG_CPU_DECLARE(name)                    \
  namespace bg::cpu {                           \
  extern const Body<decltype(::bg::name)> name; \
  }
#define BG_CPU_BODY(name)                       \
  HWY_EXPORT(name);                             \
  extern const Body<decltype(::bg::name)> name; \
  constinit const Body<decltype(::bg::name)> name{[]() { return &HWY_DYNAMIC_DISPATCH(name); }};
