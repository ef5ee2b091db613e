// Blocked float32 attention: what attention.cpp calls, one body per instruction set behind it.
#pragma once

#include "base/threads.h"
#include "kernels/cpu/attention_blocks.h"

namespace bg::cpu {

void attention_forward_fast(ThreadPool& pool, const AttentionArgs& args);
void attention_backward_fast(ThreadPool& pool, const AttentionArgs& args);

}  // namespace bg::cpu
