// Shares of a step and who gives way, without a model.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace kvasir {
namespace {

constexpr Schedulable kDecode{Priority::kInteractive, 1, 1, 0};
Schedulable prefill(int64_t pending, Priority priority = Priority::kInteractive) {
  return {priority, pending, pending, 0};
}

std::vector<int64_t> plan(std::vector<Schedulable> sequences, StepBudget budget) {
  std::vector<int64_t> rows;
  plan_step(sequences, budget, rows);
  return rows;
}

TEST(Scheduler, ALonePrefillGetsTheWholeStep) {
  EXPECT_EQ(plan({prefill(9000)}, {512, 64}), (std::vector<int64_t>{512}));
}

TEST(Scheduler, EveryDecodingSequenceGetsItsRowAndPrefillIsCutToAChunk) {
  EXPECT_EQ(plan({kDecode, prefill(9000), kDecode}, {512, 64}), (std::vector<int64_t>{1, 64, 1}));
  Schedulable drafted = kDecode;
  drafted.drafts = 3;
  EXPECT_EQ(plan({drafted, prefill(9000)}, {32, 64}), (std::vector<int64_t>{4, 28}));
}

TEST(Scheduler, DecodeRowsComeEvenWhenTheyExceedTheBudget) {
  EXPECT_EQ(plan({kDecode, kDecode, kDecode, prefill(10)}, {2, 2}), (std::vector<int64_t>{1, 1, 1, 0}));
}

TEST(Scheduler, PrefillsShareAndAShortOneLeavesItsRestToTheOthers) {
  EXPECT_EQ(plan({prefill(9000), prefill(20), prefill(9000)}, {300, 300}),
            (std::vector<int64_t>{140, 20, 140}));
  EXPECT_EQ(plan({prefill(9000), prefill(9000)}, {3, 3}), (std::vector<int64_t>{2, 1}));
}

TEST(Scheduler, BatchPrefillGetsWhatInteractiveLeaves) {
  EXPECT_EQ(plan({prefill(9000, Priority::kBatch), prefill(100)}, {512, 512}),
            (std::vector<int64_t>{412, 100}));
  EXPECT_EQ(plan({prefill(9000, Priority::kBatch), prefill(9000)}, {512, 512}),
            (std::vector<int64_t>{0, 512}));
}

TEST(Scheduler, AChunkEndsWhereItsSequenceSays) {
  Schedulable limited = prefill(9000);
  limited.limit = 77;
  EXPECT_EQ(plan({limited, prefill(9000)}, {512, 512}), (std::vector<int64_t>{77, 435}));
}

TEST(Scheduler, RandomPlansKeepTheRules) {
  std::mt19937 rng(1);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Schedulable> sequences(rng() % 12);
    for (Schedulable& s : sequences) {
      s.priority = rng() % 2 ? Priority::kBatch : Priority::kInteractive;
      s.pending = rng() % 3 == 0 ? 1 : 2 + static_cast<int64_t>(rng() % 1000);
      s.limit = 1 + static_cast<int64_t>(rng() % static_cast<uint32_t>(s.pending));
      if (s.pending == 1) s.drafts = static_cast<int64_t>(rng() % 4);
    }
    StepBudget budget{1 + static_cast<int64_t>(rng() % 600), 1 + static_cast<int64_t>(rng() % 200)};
    std::vector<int64_t> rows = plan(sequences, budget);
    int64_t decode = 0, chunks = 0, hungry = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].pending == 1) {
        ASSERT_EQ(rows[i], 1 + sequences[i].drafts);
        decode += rows[i];
      } else {
        ASSERT_LE(rows[i], sequences[i].limit);
        chunks += rows[i];
        hungry += sequences[i].limit - rows[i];
      }
    }
    int64_t allowed = std::max<int64_t>(0, budget.step_tokens - decode);
    if (decode > 0) allowed = std::min(allowed, budget.chunk_tokens);
    ASSERT_LE(chunks, allowed);
    ASSERT_TRUE(chunks == allowed || hungry == 0) << "rows were left although somebody wanted them";
  }
}

TEST(Scheduler, TheLatestOfTheLowestPriorityGivesWay) {
  EXPECT_EQ(choose_victim({}), -1);
  EXPECT_EQ(choose_victim(std::vector<Priority>{Priority::kInteractive, Priority::kInteractive}), 1);
  EXPECT_EQ(choose_victim(std::vector<Priority>{Priority::kBatch, Priority::kBatch, Priority::kInteractive}),
            1);
}

}  // namespace
}  // namespace kvasir
