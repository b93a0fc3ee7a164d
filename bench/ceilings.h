// What the machine can do at most, measured in the same run as what kvasir does with it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/thread_pool.h"

namespace kvasir::bench {

// Seconds of a steady clock.
double now();

// The shortest time of `pass` in seconds. Passes rest four times as long as they work, up to `budget` seconds
// in all and at least three of them: a virtual machine that has used up its share of the host is slowed down,
// and what is wanted is the machine, not its neighbours.
double best_seconds(double budget, const std::function<void()>& pass);

// Bytes a second that all threads together read from `bytes` of memory at `data`, the best of many short
// passes.
double read_bandwidth(ThreadPool& pool, const uint8_t* data, int64_t bytes);

struct MatrixRate {
  double flops = 0;    // a second; 0: not measured
  std::string source;  // how
};
// oneDNN's bf16 product at 4096 x 4096 x 512 with as many threads as the pool; "not measured" when built
// without it.
MatrixRate onednn_bf16(int threads);

}  // namespace kvasir::bench
