#include "base/cuda/profile_range.h"

#include <gtest/gtest.h>

namespace bg::cuda {
namespace {

TEST(KernelName, IsTheFileWithoutFolderAndEndingThenTheKernel) {
  static constexpr KernelName name("csrc/kernels/cuda/rms_norm.cu", "forward_any_kernel<T>");
  EXPECT_STREQ(name.text, "rms_norm: forward_any_kernel<T>");
}

TEST(KernelName, LeavesOutParenthesesAroundTheKernel) {
  static constexpr KernelName name("../../csrc/kernels/cuda/columns.cuh", "(columns_kernel<Op, V>)");
  EXPECT_STREQ(name.text, "columns: columns_kernel<Op, V>");
}

TEST(KernelName, TakesAFileWithoutAFolder) {
  static constexpr KernelName name("update.cu", "adam_kernel");
  EXPECT_STREQ(name.text, "update: adam_kernel");
}

}  // namespace
}  // namespace bg::cuda
