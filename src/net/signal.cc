// Signal: a flag that is atomic, and the place where a waiter leaves its timer, under a mutex.
#include "net/signal.h"

#include <atomic>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <mutex>

namespace kvasir {

namespace asio = boost::asio;
using Clock = std::chrono::steady_clock;

// Invariants
//  (1) `waiter` points into a live coroutine frame: the frame takes it away under the mutex before it goes,
//  also when
//      it is destroyed instead of resumed. So whoever holds the mutex and sees it may use its executor.
//  (2) The timer itself is touched only on the waiter's strand.
struct Signal::State {
  std::atomic<bool> set{false};
  std::mutex mutex;
  asio::steady_timer* waiter = nullptr;  // guarded by mutex
};

Signal::Signal() : state_(std::make_shared<State>()) {}

void Signal::notify() const {
  // Already set: a wake-up is on its way, or nobody waits and the next wait() will see it.
  if (state_->set.exchange(true, std::memory_order_acq_rel)) return;
  std::lock_guard lock(state_->mutex);
  if (!state_->waiter) return;
  asio::post(state_->waiter->get_executor(), [state = state_] {
    std::lock_guard inner(state->mutex);
    if (state->waiter) state->waiter->cancel();
  });
}

void SignalBatch::add(const Signal& signal) {
  std::lock_guard lock(mutex_);
  added_.push_back(signal);
}

void SignalBatch::notify_all() {
  std::vector<Signal> signals;
  {
    std::lock_guard lock(mutex_);
    signals.swap(added_);
  }
  for (const Signal& signal : signals) {
    const std::shared_ptr<Signal::State> state =
        signal.state_;  // `signals` is given away while this is locked
    std::lock_guard lock(state->mutex);
    if (!state->waiter) continue;
    asio::post(state->waiter->get_executor(), [all = std::move(signals)] {
      for (const Signal& one : all) one.notify();
    });
    return;
  }
  for (const Signal& signal : signals) signal.notify();  // nobody waits: only flags are set
}

Task<bool> Signal::wait(Clock::duration timeout) const {
  const std::shared_ptr<State> state = state_;
  const Clock::time_point now = Clock::now();
  const Clock::time_point deadline =
      timeout > Clock::time_point::max() - now ? Clock::time_point::max() : now + timeout;
  if (state->set.exchange(false, std::memory_order_acq_rel)) co_return true;

  asio::steady_timer timer(co_await asio::this_coro::executor);
  struct Place {
    State& state;
    Place(State& s, asio::steady_timer& timer) : state(s) {
      std::lock_guard lock(state.mutex);
      state.waiter = &timer;
    }
    ~Place() {
      std::lock_guard lock(state.mutex);
      state.waiter = nullptr;
    }
  } place(*state, timer);

  // A wake-up meant for an earlier wait may come late and end the timer too soon, so ask again until it is
  // time.
  for (;;) {
    if (state->set.exchange(false, std::memory_order_acq_rel)) co_return true;
    if (Clock::now() >= deadline) co_return false;
    timer.expires_at(deadline);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

}  // namespace kvasir
