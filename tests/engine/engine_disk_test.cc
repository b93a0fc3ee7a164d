// Hits from disk, after a restart: the same bits as the run that wrote them, and no wrong token whatever the disk does.
#include <filesystem>
#include <fstream>
#include <random>

#include "engine_fixture.h"
#include "io/temp_dir.h"

namespace kvasir {
namespace {

std::unique_ptr<Engine> engine_on(const std::string& folder, Numerics numerics, int64_t pages = 0) {
  DiskOptions disk;
  disk.folder = folder;
  disk.model.name = "nano";
  Engine::describe_pages(nano(), numerics, disk);
  auto store = DiskStore::open(std::move(disk));
  EXPECT_TRUE(store) << store.error().message;
  EngineOptions options;
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
    EXPECT_EQ(ask(*engine, greedy(next, 2)).hit.hit_tokens, n + 6) << "the end of the answer was kept as well";
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

INSTANTIATE_TEST_SUITE_P(Independent, EngineDisk, testing::Values(Numerics::kExact, Numerics::kNative),
                         [](const auto& test) { return std::string(numerics_name(test.param)); });

}  // namespace
}  // namespace kvasir
