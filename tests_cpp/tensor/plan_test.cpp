#include "tensor/plan.h"

#include <gtest/gtest.h>

#include <vector>

#include "testing/tensors.h"

namespace bg {
namespace {

// Two sibling layers, the first with a sublayer, beside what the whole step keeps.
struct Layers {
  Tensor stream, ids, saved1, scratch1, backward1, inner_saved, inner_scratch, saved2, scratch2, backward2;
  void reserve(Plan& plan, int64_t n) {
    plan.keep(stream, "stream", {n, 3});
    plan.keep(ids, "ids", {n}, DType::i32);
    {
      const Plan::Scope layer(plan, "first");
      plan.saved(saved1, "saved", {n});
      plan.scratch(scratch1, "scratch", {n, 5});
      plan.backward(backward1, "backward", {n, 7});
      const Plan::Scope inner(plan, "inner");
      plan.saved(inner_saved, "saved", {n});
      plan.scratch(inner_scratch, "scratch", {n});
    }
    const Plan::Scope layer(plan, "second");
    plan.saved(saved2, "saved", {n});
    plan.scratch(scratch2, "scratch", {n, 2});
    plan.backward(backward2, "backward", {n});
  }
};

bool overlap(const Tensor& a, const Tensor& b) {
  const char *pa = static_cast<const char*>(a.data()), *pb = static_cast<const char*>(b.data());
  return pa < pb + b.size_bytes() && pb < pa + a.size_bytes();
}
void expect_apart(const std::vector<Tensor>& tensors) {
  for (size_t i = 0; i < tensors.size(); ++i)
    for (size_t j = 0; j < i; ++j) EXPECT_FALSE(overlap(tensors[i], tensors[j])) << "tensors " << j << " and " << i;
}

TEST(Plan, WhatLivesTogetherNeverOverlaps) {
  Layers l;
  Plan plan(context(DType::f32), Purpose::train);
  l.reserve(plan, 9);
  plan.commit();
  // Training: everything kept or saved lives through the step, beside what one layer uses.
  expect_apart({l.stream, l.ids, l.saved1, l.inner_saved, l.saved2, l.scratch1, l.backward1, l.inner_scratch});
  expect_apart({l.stream, l.ids, l.saved1, l.inner_saved, l.saved2, l.scratch2, l.backward2});
  EXPECT_TRUE(overlap(l.scratch1, l.scratch2)) << "layers in turn share scratch";
}

TEST(Plan, InferenceKeepsLessAndHasNoBackward) {
  Layers l, t;
  Plan infer(context(DType::f32), Purpose::infer), train(context(DType::f32), Purpose::train);
  l.reserve(infer, 9);
  infer.commit();
  t.reserve(train, 9);
  train.commit();
  EXPECT_FALSE(l.backward1);
  EXPECT_FALSE(l.backward2);
  expect_apart({l.stream, l.ids, l.saved1, l.scratch1, l.inner_saved, l.inner_scratch});
  expect_apart({l.stream, l.ids, l.saved2, l.scratch2});
  EXPECT_TRUE(overlap(l.saved1, l.saved2)) << "layers in turn share what only training saves";
  EXPECT_LT(infer.size_bytes(), train.size_bytes());
}

TEST(Plan, AWriteToOneTensorLeavesItsContemporariesAlone) {
  Layers l;
  Plan plan(context(DType::f64), Purpose::train);
  l.reserve(plan, 5);
  plan.commit();
  const Tensor alive[] = {l.stream, l.saved1, l.scratch1, l.backward1, l.inner_saved, l.inner_scratch, l.saved2};
  for (const Tensor& poisoned : alive) {
    for (const Tensor& t : alive) std::fill_n(t.ptr<double>(), t.numel(), 1.0);
    std::fill_n(poisoned.ptr<double>(), poisoned.numel(), kPoison);
    for (const Tensor& t : alive) {
      if (t.data() == poisoned.data()) continue;
      for (int64_t i = 0; i < t.numel(); ++i) ASSERT_EQ(t.ptr<double>()[i], 1.0);
    }
  }
}

TEST(Plan, EveryTensorIsAlignedAndTyped) {
  Layers l;
  Plan plan(context(DType::f64), Purpose::train);
  l.reserve(plan, 7);
  plan.commit();
  for (const Tensor& t : {l.stream, l.ids, l.saved1, l.scratch1, l.backward1, l.inner_saved, l.inner_scratch, l.saved2})
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data()) % Buffer::kAlign, 0u);
  EXPECT_EQ(l.stream.dtype(), DType::f64);
  EXPECT_EQ(l.ids.dtype(), DType::i32);
  EXPECT_TRUE(l.backward1.shape() == Shape({7, 7}));
}

TEST(Plan, ActivatePointsTheHandlesBackAtItsOwnMemory) {
  Layers l;
  Plan a(context(DType::f32), Purpose::train), b(context(DType::f32), Purpose::infer);
  l.reserve(a, 9);
  a.commit();
  const Tensor stream = l.stream, backward = l.backward1;
  l.reserve(b, 4);
  b.commit();
  EXPECT_NE(l.stream.data(), stream.data());
  EXPECT_FALSE(l.backward1);
  a.activate();
  EXPECT_EQ(l.stream.data(), stream.data());
  EXPECT_TRUE(l.stream.shape() == Shape({9, 3}));
  EXPECT_EQ(l.backward1.data(), backward.data());
}

TEST(Plan, MemoryOutlivesThePlanForWhoHoldsIt) {
  Layers l;
  std::shared_ptr<const void> memory;
  std::weak_ptr<const void> seen;
  {
    Plan plan(context(DType::f32), Purpose::infer);
    l.reserve(plan, 9);
    plan.commit();
    seen = memory = plan.memory();
    *static_cast<float*>(l.stream.data()) = 3;
  }
  EXPECT_EQ(*l.stream.ptr<float>(), 3);
  EXPECT_FALSE(seen.expired());
  memory.reset();
  EXPECT_TRUE(seen.expired());
}

TEST(Plan, TableListsEveryTensorThatExists) {
  Layers l;
  Plan plan(context(DType::f32), Purpose::train), infer(context(DType::f32), Purpose::infer);
  l.reserve(plan, 9);
  plan.commit();
  const std::string table = plan.print();
  for (const char* name : {"stream", "ids", "first.saved", "first.scratch", "first.backward", "first.inner.saved",
                           "first.inner.scratch", "second.saved", "second.scratch", "second.backward", "(9, 7)"})
    EXPECT_NE(table.find(name), std::string::npos) << name;
  l.reserve(infer, 9);
  infer.commit();
  EXPECT_EQ(infer.print().find("first.backward"), std::string::npos);
}

}  // namespace
}  // namespace bg
