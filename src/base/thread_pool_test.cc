// Every task runs once, whoever runs it and however the calls follow each other.
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <vector>

namespace kvasir {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int64_t tasks : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> hits(tasks);
      pool.run(tasks, [&](int64_t t, int worker) {
        ASSERT_GE(worker, 0);
        ASSERT_LT(worker, threads);
        hits[t].fetch_add(1);
      });
      for (int64_t t = 0; t < tasks; ++t) EXPECT_EQ(hits[t].load(), 1) << "task " << t;
    }
  }
}

TEST(ThreadPool, ResultsOfOneCallAreVisibleToTheNext) {
  ThreadPool pool(4);
  std::vector<int64_t> a(4096), b(4096);
  for (int round = 0; round < 200; ++round) {
    pool.run(64, [&](int64_t t, int) { for (int i = 0; i < 64; ++i) a[t * 64 + i] = t + round; });
    pool.run(64, [&](int64_t t, int) { for (int i = 0; i < 64; ++i) b[t * 64 + i] = a[(63 - t) * 64 + i]; });
    for (int64_t t = 0; t < 64; ++t) ASSERT_EQ(b[t * 64], 63 - t + round);
  }
}

TEST(ThreadPool, WakesAfterSleeping) {
  ThreadPool pool(3);
  std::atomic<int> n{0};
  for (int round = 0; round < 3; ++round) {
    pool.run(30, [&](int64_t, int) { n.fetch_add(1); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // longer than the spin: workers sleep
  }
  EXPECT_EQ(n.load(), 90);
}

}  // namespace
}  // namespace kvasir
