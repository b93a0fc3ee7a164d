// ThreadPool: fork-join over a fixed set of workers, for CPU kernels.
//
// `run(tasks, fn)` calls fn(task, worker) once for every task in [0, tasks) and returns when all
// are done; the calling thread is worker 0 and works too. Tasks are handed out one at a time in
// ascending order, so which worker computes a task is not fixed: a kernel must compute the same
// bits for a task whoever runs it (that is how results stay independent of the thread count).
//
// Threading: one caller at a time, from one thread; fn must not call run. Workers spin a little
// between calls, since a decode step forks hundreds of times, and then sleep. A call ends when its tasks
// are done, whether or not every worker has come: on a busy machine nobody waits for one that has no core.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace kvasir {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller; 0 means one per core this process may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  template <class Fn>
  void run(int64_t tasks, Fn&& fn) {
    if (tasks <= 0) return;
    if (tasks == 1 || workers_.empty()) {
      for (int64_t t = 0; t < tasks; ++t) fn(t, 0);
      return;
    }
    run_erased(tasks, [](void* f, int64_t t, int w) { (*static_cast<std::remove_reference_t<Fn>*>(f))(t, w); },
               const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using Call = void (*)(void*, int64_t, int);
  void run_erased(int64_t tasks, Call call, void* fn);
  void work(int worker);
  // Takes and runs tasks of call number `epoch` until none is left.
  void drain(uint64_t epoch, int worker);

  // The call in progress: its number (upper 24 bits) and how many of its tasks nobody has taken yet. One word, so
  // that a worker which wakes late can tell, in the act of taking a task, that its call is over.
  static constexpr int kEpochShift = 40;
  static uint64_t epoch_of(uint64_t word) { return word >> kEpochShift; }
  static int64_t left_in(uint64_t word) { return static_cast<int64_t>(word & ((uint64_t{1} << kEpochShift) - 1)); }

  std::vector<std::thread> workers_;
  Call call_ = nullptr;   // these three: written by the caller before open_ is; a worker reads them only while
  void* fn_ = nullptr;    // it holds a task, and the call cannot end before that task is done
  int64_t tasks_ = 0;
  std::atomic<uint64_t> open_{0};
  std::atomic<int64_t> done_{0};      // finished tasks of the call
  std::atomic<bool> stop_{false};
  std::atomic<int> sleeping_{0};      // workers that gave up spinning
  std::mutex mutex_;                  // guards only the sleep on wake_
  std::condition_variable wake_;
};

}  // namespace kvasir
