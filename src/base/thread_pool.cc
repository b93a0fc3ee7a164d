// Fork-join by an epoch counter: workers spin on it for a few tens of microseconds, which covers
// the gaps inside one decode step, and sleep on a condition variable after that.
#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/check.h"

namespace kvasir {
namespace {

void spin_pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

int allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

constexpr int kSpins = 20000;  // about 100-300 us of pauses, longer than any gap between two ops

}  // namespace

ThreadPool::ThreadPool(int threads) {
  KVASIR_CHECK(threads >= 0, "threads {}", threads);
  if (threads == 0) threads = allowed_cores();
  for (int w = 1; w < threads; ++w) workers_.emplace_back([this, w] { work(w); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  {
    std::lock_guard lock(mutex_);
    epoch_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& t : workers_) t.join();
}

void ThreadPool::run_erased(int64_t tasks, Call call, void* fn) {
  call_ = call;
  fn_ = fn;
  tasks_ = tasks;
  next_.store(0, std::memory_order_relaxed);
  running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1);  // releases the fields above; seq_cst so that the sleeping_ test below cannot pass it
  if (sleeping_.load() > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  drain(0);
  // A worker that has no core to run on must not be waited for by burning ours.
  for (int spins = 0; running_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      spin_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::drain(int worker) {
  for (;;) {
    int64_t t = next_.fetch_add(1, std::memory_order_relaxed);
    if (t >= tasks_) return;
    call_(fn_, t, worker);
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (epoch_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        spin_pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return epoch_.load() != seen; });
      sleeping_.fetch_sub(1);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    drain(worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace kvasir
