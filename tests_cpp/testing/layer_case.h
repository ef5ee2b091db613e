// What every layer of a block must be: right, repeatable, independent of threads and of how a batch is split, the same
// in steps of decoding, and the same on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/spec.h"

namespace bg {

/// One stack to prove a layer in, and how many rows and positions.
struct LayerCase {
  StackSpec stack;
  int64_t block = 0;  // whose layer it is
  int64_t B = 2, T = 7;
  int64_t seen_together = 0;  // > 0: positions see all of the run of so many that they stand in; 0: causal
};
/// Small stacks that make a layer take every branch: windows, runs, XSA, grouped heads, activations, odd sizes.
std::vector<LayerCase> layer_cases();

/// Each proves its sentence for the layer of that name in every case.
void prove_layer_gradients(const char* name);
void prove_layer_added(const char* name);
void prove_layer_bits(const char* name);
void prove_layer_decoding(const char* name);
void prove_layer_on_gpu(const char* name);

#define BG_PROVE_LAYER(Name, name)                                                 \
  TEST(Name##Layer, GradientsEqualFiniteDifferences) {                             \
    prove_layer_gradients(name);                                                   \
  }                                                                                \
  TEST(Name##Layer, AddsToTheGradientOfItsInputWhereAskedTo) {                     \
    prove_layer_added(name);                                                       \
  }                                                                                \
  TEST(Name##Layer, HasTheSameBitsWithAnyThreadsInEachRowAloneAndOnAnotherVisit) { \
    prove_layer_bits(name);                                                        \
  }                                                                                \
  TEST(Name##Layer, GivesTheSameInStepsOfDecoding) {                               \
    prove_layer_decoding(name);                                                    \
  }                                                                                \
  TEST(Name##LayerOnGpu, EqualsTheCpu) {                                           \
    prove_layer_on_gpu(name);                                                      \
  }

}  // namespace bg
