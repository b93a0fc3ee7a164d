// The cache over both tiers: restarts, sharing of reads, losses, and a random walk beside a model that
// remembers everything, with audit() after each step.
#include <gtest/gtest.h>

#include <map>

#include "cache/disk_fixture_test.h"

namespace kvasir {
namespace {

struct StoreInFolder {
  std::unique_ptr<DiskStore> disk;
};

// Both tiers, the second in `dir`, as a process would have them until it ends.
struct CacheOnDisk : StoreInFolder, CacheUnderTest {
  explicit CacheOnDisk(const TempDir& dir, Memory& memory = host_memory())
      : StoreInFolder{open_store(disk_options(dir.file("kv")))},
        CacheUnderTest(64, 1 << 20, disk.get(), kPageBytes, {kPageBytes / 4, kPageBytes / 2, kPageBytes / 4}, memory) {}

  bool run_and_leave_to_disk(const Tokens& tokens) {
    run(tokens);
    return cache->flush() && cache->make_room(64);
  }
};

TEST(PrefixCacheOnDisk, ARestartLosesNothingThatWasWritten) {
  TempDir dir;
  Tokens system = prompt(1, 40), a = joined(system, prompt(2, 90)), b = joined(system, prompt(3, 90));
  {
    CacheOnDisk t(dir);
    t.run(a);
    t.run(b);
    ASSERT_TRUE(t.cache->flush());
    t.cache->audit();
  }
  CacheOnDisk t(dir);
  t.cache->audit();
  auto match = t.cache->lookup({0, a}, 130);
  EXPECT_EQ(match.page_tokens, 128);
  ASSERT_FALSE(match.points.empty());
  EXPECT_EQ(match.points.back().length, 130);
  EXPECT_EQ(match.points.back().tier, CacheTier::kDisk);
  EXPECT_EQ(t.run(joined(a, prompt(4, 20))), 20);
  EXPECT_EQ(t.run(joined(b, prompt(5, 20))), 20);
  EXPECT_EQ(t.cache->lookup({0, a}, 130).points.back().tier, CacheTier::kMemory) << "it has been read in";
  t.cache->audit();
}

TEST(PrefixCacheOnDisk, HoldsPagesOfADeviceAndOfTheHostAlike) {
  // Written from memory that the host may not touch, read back into such memory, and into the host's.
  TempDir dir;
  Tokens a = prompt(1, 130);
  FarMemory far;
  {
    CacheOnDisk t(dir, far);
    t.run(a);
    ASSERT_TRUE(t.cache->flush());
  }
  for (bool device : {true, false}) {
    CacheOnDisk t(dir, device ? static_cast<Memory&>(far) : host_memory());
    EXPECT_EQ(t.run(joined(a, prompt(device ? 4 : 5, 20))), 20) << (device ? "into a device" : "into the host");
    t.cache->audit();
  }
}

TEST(PrefixCacheOnDisk, TwoRestoresShareOneRead) {
  TempDir dir;
  Tokens a = prompt(1, 128);
  CacheOnDisk t(dir);
  ASSERT_TRUE(t.run_and_leave_to_disk(a));
  auto first = t.cache->restore({0, a}, 128, 128);
  auto second = t.cache->restore({0, a}, 128, 128);
  ASSERT_TRUE(first && second);
  (*first)->wait_section(2);
  (*second)->wait_section(2);
  EXPECT_EQ((*first)->sections_ready(), 3);
  while (!(*first)->done() || !(*second)->done()) {
  }
  EXPECT_EQ((*first)->tier(), CacheTier::kDisk);
  EXPECT_EQ((*second)->page_tokens(), 128);
  EXPECT_EQ(t.pool.allocated_pages(), 8);
  EXPECT_EQ((*first)->take_pages(), (*second)->take_pages());
  t.cache->audit();
}

TEST(PrefixCacheOnDisk, ARestoreThatIsGivenUpLeavesThePagesToTheCache) {
  TempDir dir;
  Tokens a = prompt(1, 128);
  CacheOnDisk t(dir);
  ASSERT_TRUE(t.run_and_leave_to_disk(a));
  (void)t.cache->restore({0, a}, 128, 128);
  t.cache->audit();
  EXPECT_EQ(t.run(joined(a, prompt(2, 10))), 10);
  t.cache->audit();
  (void)t.cache->make_room(64);
  (void)t.cache->restore({0, a}, 128, 128);
  t.cache->forget({0, a});
  t.cache->audit();
  EXPECT_EQ(t.pool.allocated_pages(), 0);
}

TEST(PrefixCacheOnDisk, ACorruptPageShortensTheRestore) {
  TempDir dir;
  Tokens a = prompt(1, 128);
  {
    CacheOnDisk t(dir);
    t.run(a);
    ASSERT_TRUE(t.cache->flush());
  }
  // The fifth page's bytes in the middle section: it is found by content, so that the test knows no offsets.
  std::string bytes = dir.read("kv/" + segment_name(1));
  std::vector<std::byte> page(kPageBytes);
  fill_page(page.data(), std::span(a).first(5 * kSpanTokens), kPageBytes);
  size_t at =
      bytes.find(std::string(reinterpret_cast<const char*>(page.data()) + kPageBytes / 4, kPageBytes / 2));
  ASSERT_NE(at, std::string::npos);
  bytes[at + 9] = static_cast<char>(bytes[at + 9] ^ 4);
  dir.write("kv/" + segment_name(1), bytes);

  CacheOnDisk t(dir);
  auto restore = t.cache->restore({0, a}, 128, 128);
  ASSERT_TRUE(restore);
  while (!(*restore)->done()) (*restore)->wait_section(99);
  EXPECT_EQ((*restore)->page_tokens(), 64);
  EXPECT_LT((*restore)->sections_ready(), 3);
  restore->reset();
  t.cache->audit();
  EXPECT_EQ(t.cache->lookup({0, a}, 128).page_tokens, 64);
  EXPECT_EQ(t.cache->metrics().corrupt_records, 1);
  EXPECT_EQ(t.run(a), 128) << "computed again";
  EXPECT_EQ(t.cache->lookup({0, a}, 128).page_tokens, 128) << "and the pages behind it count again";
}

TEST(PrefixCacheOnDisk, ForgettingHoldsAfterARestart) {
  TempDir dir;
  Tokens system = prompt(1, 64), a = joined(system, prompt(2, 64)), b = joined(system, prompt(3, 64));
  {
    CacheOnDisk t(dir);
    t.run(a);
    t.run(b);
    t.cache->forget({0, a});  // perhaps while it is being written
    t.cache->audit();
    ASSERT_TRUE(t.cache->flush());
  }
  CacheOnDisk t(dir);
  EXPECT_EQ(t.cache->lookup({0, a}, 128).page_tokens, 64);
  EXPECT_EQ(t.run(b), 0);
}

TEST(PrefixCacheOnDisk, SavingWaitsForTheDiskAndSaysWhatFailed) {
  TempDir dir;
  FailingFiles files;
  DiskOptions options = disk_options(dir.file("kv"));
  options.files = &files;
  auto disk = open_store(options);
  CacheUnderTest t(64, 1 << 20, disk.get());
  Tokens a = prompt(1, 64), b = prompt(2, 64);
  EXPECT_EQ(t.cache->save({0, a}).error().code, ErrorCode::kNotFound);
  t.run(a, SnapshotUse::kPromptEnd, 64, false);
  ASSERT_TRUE(t.cache->save({0, a}));
  EXPECT_EQ(t.cache->metrics().disk_pages, 4);
  EXPECT_TRUE(t.cache->list()[0].kept);
  files.error = 1;
  t.run(b, SnapshotUse::kPromptEnd, 64, false);
  EXPECT_FALSE(t.cache->save({0, b}));
  EXPECT_EQ(t.run(b), 0) << "memory goes on alone";
  t.cache->audit();
  CacheUnderTest alone(64);
  alone.run(a);
  EXPECT_EQ(alone.cache->save({0, a}).error().code, ErrorCode::kUnsupported);
}

TEST(PrefixCacheOnDisk, APrefixOfASinglePageSurvivesAndLessIsNotWritten) {  // CACHE-2
  for (bool behind : {true, false}) {
    TempDir dir;
    Tokens page = prompt(1, kSpanTokens + 4), less = prompt(2, kSpanTokens - 1);
    {
      CacheOnDisk t(dir);
      t.run(page, SnapshotUse::kPromptEnd, 64, behind);
      t.run(less, SnapshotUse::kPromptEnd, 64, behind);
      ASSERT_TRUE(t.cache->flush());
      EXPECT_EQ(t.cache->metrics().disk_pages, 1);
      EXPECT_EQ(t.cache->metrics().disk_snapshots, 1);
    }
    CacheOnDisk t(dir);
    EXPECT_EQ(t.run(joined(page, prompt(3, 5))), 5);
    EXPECT_EQ(t.run(less), kSpanTokens - 1);
    t.cache->audit();
  }
}

// The model: which prompts were ever run. The cache may know less, never more, and never other bytes (run
// checks each).
TEST(PrefixCacheOnDisk, ARandomWalkKeepsEveryInvariant) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    TempDir dir;
    FailingFiles files;
    std::mt19937 random(seed);
    auto pick = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
    DiskOptions options = disk_options(dir.file("kv"));
    options.files = &files;
    options.max_bytes = 256 << 10;
    options.segment_bytes = 16 << 10;
    std::atomic<int64_t> time{0};
    options.monotonic_ms = [&] { return time.load(); };
    auto disk = open_store(options);
    auto t = std::make_unique<CacheUnderTest>(40, 2000, disk.get());
    std::vector<Tokens> known = {{}};
    std::vector<std::unique_ptr<Restore>> open;
    for (int step = 0; step < 600; ++step) {
      time += 100000;
      uint32_t what = pick(100);
      const Tokens& from = known[pick(static_cast<uint32_t>(known.size()))];
      if (what < 55) {
        Tokens next = from.size() > 300 ? prompt(seed * 1000 + step, 30)
                                        : joined(from, prompt(seed * 1000 + step, 1 + pick(90)));
        int64_t computed =
            t->run(next, static_cast<SnapshotUse>(pick(4)), 50 + pick(100), pick(4) != 0, pick(2));
        EXPECT_LE(computed, std::ssize(next));
        known.push_back(next);
      } else if (what < 70) {
        auto match = t->cache->lookup({0, from}, std::ssize(from));
        for (const auto& point : match.points) {
          EXPECT_LE(point.length / kSpanTokens * kSpanTokens, match.page_tokens);
          EXPECT_LE(point.length, std::ssize(from));
        }
        auto restore = t->cache->restore({0, from}, match.page_tokens,
                                         match.points.empty() ? 0 : match.points.back().length);
        if (restore) open.push_back(std::move(*restore));
      } else if (what < 80 && !open.empty()) {
        open.erase(open.begin() + pick(static_cast<uint32_t>(open.size())));
      } else if (what < 88) {
        (void)t->cache->make_room(pick(41));
      } else if (what < 91) {
        t->cache->forget({pick(2), from});
      } else if (what < 93) {
        t->cache->drop_snapshot({0, from});
      } else if (what < 95) {
        (void)t->cache->save({0, from});
      } else if (what < 97) {
        files.error = files.error == 0 ? static_cast<int>(1 + pick(3)) : 0;
      } else {
        open.clear();
        t.reset();
        disk.reset();
        files.error = 0;
        disk = open_store(options);
        t = std::make_unique<CacheUnderTest>(40, 2000, disk.get());
      }
      t->cache->audit();
      if (open.size() > 3) open.erase(open.begin());
    }
    open.clear();
    files.error = 0;
    for (const Tokens& tokens : known) EXPECT_GE(t->run(tokens), 0);
    t->cache->audit();
  }
}

}  // namespace
}  // namespace kvasir
