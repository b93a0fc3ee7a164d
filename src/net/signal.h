// Signal: lets any thread wake one coroutine. The engine thread notifies, the connection's coroutine waits.
//
//   stream->set_notify([signal] { signal.notify(); });
//   while (out.connected()) {
//     while (stream->try_next(event)) ...
//     co_await signal.wait(10s);
//   }
//
// A Signal is a handle; copies share one flag. notify() sets the flag and wait() takes it, so a notification
// that comes before the wait, or between two waits, is not lost; several before one wait count as one.
// Threading: notify() from any thread, at any time, also after the waiter or its server has gone; it takes no
// lock and allocates nothing while the flag is already set, and does both, briefly, when it wakes a waiter.
// wait() from one coroutine at a time, which must run on a strand (every HTTP handler does).
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <vector>

#include "net/task.h"

namespace kvasir {

class Signal {
 public:
  Signal();

  void notify() const;

  // True: notified since the last wait that returned true. False: `timeout` passed without.
  Task<bool> wait(std::chrono::steady_clock::duration timeout) const;

 private:
  friend class SignalBatch;
  struct State;
  std::shared_ptr<State> state_;
};

// Notifies many signals by one interruption of a network thread, which passes the news on. A notify() for
// each of them could put that thread to work, and back to sleep, as many times, and each time in the
// notifier's place where both share a core. Threading: any.
class SignalBatch {
 public:
  // `signal` is notified by the next notify_all().
  void add(const Signal& signal);
  void notify_all();

 private:
  std::mutex mutex_;
  std::vector<Signal> added_;  // guarded by mutex_
};

}  // namespace kvasir
