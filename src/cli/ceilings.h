// What the machine can do at most, measured in the same run as what kvasir does with it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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
double read_bandwidth(ThreadPool& pool, const uint8_t* data, int64_t bytes, double budget);

// oneDNN's bf16 product at 4096 x 4096 x 512, with as many threads as asked for.
class OneDnnProduct {
 public:
  explicit OneDnnProduct(int threads);
  ~OneDnnProduct();
  // Operations a second; 0 when kvasir was built without oneDNN or it refuses.
  double flops(double budget);
  const std::string& source() const { return source_; }

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
  std::string source_;
};

}  // namespace kvasir::bench
