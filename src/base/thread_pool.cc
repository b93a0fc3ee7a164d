// Fork-join by a call number: workers spin on it for a few tens of microseconds, which covers
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
    open_.store((epoch_of(open_.load()) + 1) << kEpochShift);
  }
  wake_.notify_all();
  for (auto& t : workers_) t.join();
}

void ThreadPool::run_erased(int64_t tasks, Call call, void* fn) {
  call_ = call;
  fn_ = fn;
  tasks_ = tasks;
  done_.store(0, std::memory_order_relaxed);
  uint64_t epoch = (epoch_of(open_.load(std::memory_order_relaxed)) + 1) & ((uint64_t{1} << (64 - kEpochShift)) - 1);
  // Releases the fields above; seq_cst so that the test of sleeping_ below cannot pass it.
  open_.store(epoch << kEpochShift | static_cast<uint64_t>(tasks));
  if (sleeping_.load() > 0) {
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  drain(epoch, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != tasks; ++spins) {
    if (spins < kSpins) {
      spin_pause();
    } else {
      std::this_thread::yield();  // a worker holds the last task and may need this core
    }
  }
}

void ThreadPool::drain(uint64_t epoch, int worker) {
  uint64_t word = open_.load(std::memory_order_acquire);
  for (;;) {
    if (epoch_of(word) != epoch || left_in(word) == 0) return;
    if (!open_.compare_exchange_weak(word, word - 1, std::memory_order_acq_rel)) continue;
    call_(fn_, tasks_ - left_in(word), worker);
    done_.fetch_add(1, std::memory_order_release);
    word = open_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (epoch_of(open_.load(std::memory_order_acquire)) == seen) {
      if (++spins < kSpins) {
        spin_pause();
        continue;
      }
      std::unique_lock lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [&] { return epoch_of(open_.load()) != seen; });
      sleeping_.fetch_sub(1);
    }
    seen = epoch_of(open_.load(std::memory_order_acquire));
    if (stop_.load()) return;
    drain(seen, worker);
  }
}

}  // namespace kvasir
