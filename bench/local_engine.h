// What benches of the engine in their own process share: an end for errors, and a bell that readers wait for.
#pragma once

#include <fmt/core.h>

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/result.h"

namespace kvasir {

[[noreturn]] inline void die(const Error& error) {
  fmt::print(stderr, "{}\n", error.message);
  std::exit(1);
}

template <class T>
T value_of(Result<T> result) {
  if (!result) die(result.error());
  return *std::move(result);
}

// Wakes whoever reads any number of streams.
class Bell {
 public:
  void ring() {
    std::lock_guard lock(mutex_);
    rung_ = true;
    condition_.notify_one();
  }
  // Until it has been rung since the last wait.
  void wait() {
    std::unique_lock lock(mutex_);
    condition_.wait(lock, [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool rung_ = false;  // guarded by mutex_
};

}  // namespace kvasir
