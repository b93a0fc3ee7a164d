// The two ends of a TokenStream share this: the engine thread pushes events, one reader takes them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "engine/engine.h"

namespace kvasir {

// Wakes the engine thread; outlives the engine as long as a stream does.
class WakeUp {
 public:
  void signal() {
    std::lock_guard lock(mutex_);
    signalled_ = true;
    condition_.notify_one();
  }
  // Until a signal since the last wait, or `until`.
  void wait(std::chrono::steady_clock::time_point until) {
    std::unique_lock lock(mutex_);
    // time_point::max() overflows in some implementations of wait_until.
    auto latest = std::min(until, std::chrono::steady_clock::now() + std::chrono::hours(1));
    condition_.wait_until(lock, latest, [&] { return signalled_; });
    signalled_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool signalled_ = false;  // guarded by mutex_
};

struct StreamState {
  explicit StreamState(std::shared_ptr<WakeUp> wake) : wake_up(std::move(wake)) {}

  // True: the stream was empty, so its reader wants to be told.
  bool push(StreamEvent event) {
    std::lock_guard lock(mutex);
    events.push_back(std::move(event));
    return events.size() == 1;
  }
  // Unless the reader has been there already. `notify` runs under the lock, so that a stream that is
  // destroyed is never notified afterwards.
  void tell_reader() {
    std::lock_guard lock(mutex);
    if (!events.empty() && notify) notify();
  }

  std::mutex mutex;
  std::deque<StreamEvent> events;  // guarded by mutex
  std::function<void()> notify;    // guarded by mutex
  std::atomic<bool> cancelled{false};
  const std::shared_ptr<WakeUp> wake_up;
};

}  // namespace kvasir
