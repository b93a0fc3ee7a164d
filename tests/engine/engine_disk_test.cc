// Hits from disk, after a restart: the same bits as the run that wrote them, and no wrong token whatever the
// disk does.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "cache/watched_files.h"
#include "engine_fixture.h"
#include "io/temp_dir.h"

namespace kvasir {
namespace {

std::unique_ptr<Engine> engine_on(const std::string& folder, Numerics numerics, int64_t pages = 0,
                                  EngineOptions options = {}, DiskOptions disk = {}) {
  disk.folder = folder;
  disk.model.name = "nano";
  Engine::describe_pages(nano(), numerics, disk);
  auto store = DiskStore::open(std::move(disk));
  EXPECT_TRUE(store) << store.error().message;
  options.disk = *std::move(store);
  if (pages > 0) options.cache_bytes = pages * page_bytes(nano(), numerics);
  return make_engine(nano(), numerics, std::move(options));
}

class EngineDisk : public testing::TestWithParam<Numerics> {};

TEST_P(EngineDisk, AfterARestartAHitGivesTheBitsOfTheRunThatWroteIt) {
  for (int64_t n : {200, 300, 1000, 1409}) {
    TempDir dir;
    std::vector<int32_t> prompt = some_prompt(n);
    Answer first = ask(*engine_on(dir.path(), GetParam()), with_logits(greedy(prompt, 6)));
    auto engine = engine_on(dir.path(), GetParam());
    Answer again = ask(*engine, with_logits(greedy(prompt, 6)));
    EXPECT_EQ(again.hit.hit_tokens, n - 1);
    EXPECT_EQ(again.hit.tier, CacheTier::kDisk);
    EXPECT_GT(again.hit.restore_ms, 0);
    expect_same_bits(again, first, std::to_string(n));
    EXPECT_EQ(settled_metrics(*engine).hit_tokens_disk, n - 1);
    std::vector<int32_t> next = prompt;
    next.insert(next.end(), first.ids.begin(), first.ids.end());
    next.push_back(77);
    EXPECT_EQ(ask(*engine, greedy(next, 2)).hit.hit_tokens, n + 6)
        << "the end of the answer was kept as well";
  }
}

TEST_P(EngineDisk, AStreamGoesOnWhileAnotherRestores) {
  TempDir dir;
  std::vector<int32_t> prompt = some_prompt(3000);
  Answer first = ask(*engine_on(dir.path(), GetParam()), with_logits(greedy(prompt, 4)));
  auto engine = engine_on(dir.path(), GetParam());
  Reader stream(engine->submit(greedy(some_prompt(50, 5), 400)));
  stream.read_until([](const Answer& a) { return a.ids.size() == 5; });
  expect_same_bits(ask(*engine, with_logits(greedy(prompt, 4))), first, "beside a stream");
  EXPECT_EQ(stream.finish().ids.size(), 400u);
  EXPECT_EQ(settled_metrics(*engine).early_starts, 0) << "a stream never waits for another's pages";
}

TEST_P(EngineDisk, ConversationsBeyondTheMemoryComeBackFromDisk) {
  TempDir dir;
  auto engine = engine_on(dir.path(), GetParam(), 24);
  std::vector<Answer> first;
  for (int i = 0; i < 5; ++i) {
    first.push_back(ask(*engine, with_logits(greedy(some_prompt(1100, i), 4))));
    engine->call([](PrefixCache& cache) { EXPECT_TRUE(cache.flush()); });
  }
  for (int i = 0; i < 5; ++i) {
    Answer again = ask(*engine, with_logits(greedy(some_prompt(1100, i), 4)));
    EXPECT_EQ(again.hit.hit_tokens, 1099) << i;
    expect_same_bits(again, first[i], "conversation " + std::to_string(i));
  }
  EXPECT_GT(settled_metrics(*engine).hit_tokens_disk, 0);
}

TEST_P(EngineDisk, DamagedFilesCostAMissAndNeverAWrongToken) {
  TempDir dir;
  std::vector<int32_t> prompt = some_prompt(1500);
  Answer first = ask(*engine_on(dir.path(), GetParam()), with_logits(greedy(prompt, 4)));
  std::mt19937 rng(3);
  for (int round = 0; round < 12; ++round) {
    TempDir copy;
    namespace fs = std::filesystem;
    fs::copy(dir.path(), copy.path(), fs::copy_options::recursive);
    for (const auto& entry : fs::recursive_directory_iterator(copy.path())) {
      if (!entry.is_regular_file() || entry.file_size() < 4096) continue;
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      for (int i = 0; i < 2 + round; ++i) {
        file.seekp(static_cast<int64_t>(rng() % entry.file_size()));
        file.put(static_cast<char>(rng()));
      }
    }
    auto engine = engine_on(copy.path(), GetParam());
    Answer again = ask(*engine, with_logits(greedy(prompt, 4)));
    EXPECT_EQ(again.reason, EndReason::kLength);
    expect_same_bits(again, first, "round " + std::to_string(round));
  }
}

// Knows which layers have been computed.
class LayerWatch : public ForwardObserver {
 public:
  void tensor(const std::string& name, View<float, 2>) override {
    std::lock_guard lock(mutex_);
    seen_.insert(name);
    changed_.notify_all();
  }
  void indices(const std::string&, View<const int32_t, 2>) override {}
  bool waits_for(const std::string& name) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return seen_.contains(name); });
  }
  bool has_seen(const std::string& name) {
    std::lock_guard lock(mutex_);
    return seen_.contains(name);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> seen_;
};

// A prompt on disk, and engines that read it section by section, one read after the other.
class EarlyStart : public testing::TestWithParam<Numerics> {
 protected:
  // The bundled model's last section is that of layer 6: the layers before it need none of the last read's
  // bytes.
  static constexpr const char *kBeforeLast = "layers.5.ffn.out", *kLast = "layers.6.ffn.out";

  void SetUp() override {
    first_ = ask(*engine_on(dir_.path(), GetParam()), with_logits(greedy(prompt_, 4)));
    auto engine = open();
    expect_same_bits(ask(*engine, with_logits(greedy(prompt_, 4))), first_, "nothing held up");
    engine.reset();
    reads_ = files_.reads;
    ASSERT_EQ(reads_, 7)
        << "the head of the snapshot and itself, the head of the extent and its four sections";
    watch_ = std::make_unique<LayerWatch>();
  }
  // Hooks are set afterwards: opening reads, too.
  std::unique_ptr<Engine> open() {
    EngineOptions options;
    options.observer = watch_.get();
    DiskOptions disk;
    disk.files = &files_;
    disk.read_threads = 1;
    disk.request_bytes = 1;
    auto engine = engine_on(dir_.path(), GetParam(), 0, std::move(options), std::move(disk));
    files_.reads = 0;
    return engine;
  }
  // The last read waits until all that can be computed without it has been.
  void hold_last_read() {
    files_.before_read = [this](int n, std::span<const iovec>) {
      if (n != reads_ - 1) return;
      held_ = watch_->waits_for(kBeforeLast);
      too_early_ = watch_->has_seen(kLast);
    };
  }

  TempDir dir_;
  std::vector<int32_t> prompt_ = some_prompt(1500);
  Answer first_;
  WatchedFiles files_;
  std::unique_ptr<LayerWatch> watch_ = std::make_unique<LayerWatch>();
  int reads_ = 0;  // that bring the prompt back
  std::atomic<bool> held_{false}, too_early_{false};
};

TEST_P(EarlyStart, TheFirstLayersComputeBeforeTheLastAreRead) {
  auto engine = open();
  hold_last_read();
  Answer again = ask(*engine, with_logits(greedy(prompt_, 4)));
  EXPECT_TRUE(held_) << "layers before the last section did not run until it was there";
  EXPECT_FALSE(too_early_) << "a layer ran without its section";
  expect_same_bits(again, first_, "early");
  EXPECT_EQ(again.hit.tier, CacheTier::kDisk);
  EXPECT_EQ(again.hit.hit_tokens, 1499);
  EXPECT_EQ(again.admissions, 1);
  EXPECT_EQ(settled_metrics(*engine).early_starts, 1);
  EXPECT_EQ(settled_metrics(*engine).early_losses, 0);
}

TEST_P(EarlyStart, AWrongByteInTheLastSectionIsComputedAgainAndNeverUsed) {
  auto engine = open();
  hold_last_read();
  files_.after_read = [this](int n, std::span<const iovec> parts) {
    if (n == reads_ - 1) static_cast<unsigned char*>(parts[0].iov_base)[3] ^= 0x40;
    return Status();
  };
  Answer again = ask(*engine, with_logits(greedy(prompt_, 4)));
  EXPECT_TRUE(held_);
  EXPECT_EQ(again.reason, EndReason::kLength);
  expect_same_bits(again, first_, "one wrong byte");
  EXPECT_EQ(again.admissions, 1);
  EXPECT_LT(again.hit.hit_tokens, 1499) << "what was computed again is no hit";
  EngineMetrics m = settled_metrics(*engine);
  EXPECT_EQ(m.early_losses, 1);
  EXPECT_EQ(m.cache.corrupt_records, 1);
}

TEST_P(EarlyStart, AFailedReadOfTheLastSectionIsComputedAgain) {
  auto engine = open();
  hold_last_read();
  files_.after_read = [this](int n, std::span<const iovec>) {
    return n < reads_ - 1 ? Status() : Status(Error{ErrorCode::kIo, "injected: Input/output error"});
  };
  Answer again = ask(*engine, with_logits(greedy(prompt_, 4)));
  EXPECT_TRUE(held_);
  EXPECT_EQ(again.reason, EndReason::kLength);
  expect_same_bits(again, first_, "a failed read");
  EXPECT_EQ(again.admissions, 1);
  EXPECT_LT(again.hit.hit_tokens, 1499);
  EXPECT_EQ(settled_metrics(*engine).early_losses, 1);
}

TEST_P(EarlyStart, ASlowDiskIsWaitedForWithoutHoldingTheEngineForLong) {
  auto engine = open();  // which reads quickly
  files_.before_read = [](int, std::span<const iovec>) { std::this_thread::sleep_for(std::chrono::milliseconds(400)); };
  Reader slow(engine->submit(with_logits(greedy(prompt_, 4))));
  while (files_.reads < 5) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // The first section is there. Were the engine held from now on, this request would take the 1.2 s of the
  // others.
  auto begin = std::chrono::steady_clock::now();
  ask(*engine, greedy(some_prompt(20, 9), 1));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(700));
  expect_same_bits(slow.finish(), first_, "slow");
}

INSTANTIATE_TEST_SUITE_P(Independent, EarlyStart, testing::Values(Numerics::kExact, Numerics::kNative),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

INSTANTIATE_TEST_SUITE_P(Independent, EngineDisk, testing::Values(Numerics::kExact, Numerics::kNative),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
