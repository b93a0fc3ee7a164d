// The cheapest way back to where a prompt parts from what is known.
#include "engine/resume_plan.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

PrefixMatch match(int64_t page_tokens, std::vector<int64_t> points) {
  PrefixMatch m;
  m.page_tokens = page_tokens;
  for (int64_t length : points) m.points.push_back({length, CacheTier::kMemory});
  return m;
}

TEST(ResumePlan, ColdWhenNothingIsKnown) {
  ResumePlan plan = plan_resume(match(0, {}), 8);
  EXPECT_EQ(plan.start, 0);
  EXPECT_EQ(plan.hit, 0);
}

TEST(ResumePlan, TakesTheLongestSnapshot) {
  ResumePlan plan = plan_resume(match(640, {128, 300, 700}), 8);
  EXPECT_EQ(plan.start, 700);
  EXPECT_EQ(plan.snapshot, 700);
  EXPECT_EQ(plan.stored, 640);
  EXPECT_EQ(plan.hit, 700);
}

TEST(ResumePlan, ReplaysWhenThatIsShorterThanGoingOnFromTheSnapshot) {
  // 8 layers: a replay computes 1,024 tokens.
  ResumePlan forward = plan_resume(match(1280, {256}), 8);
  EXPECT_EQ(forward.start, 256) << "1,024 tokens either way: the snapshot";
  EXPECT_EQ(forward.replayed, 0);
  ResumePlan replay = plan_resume(match(1408, {256}), 8);
  EXPECT_EQ(replay.start, 384);
  EXPECT_EQ(replay.snapshot, 0);
  EXPECT_EQ(replay.hit, 1408);
  EXPECT_EQ(replay.replayed, 1024);
}

TEST(ResumePlan, ComputesAShortPromptWhoseSnapshotsAreGone) {
  ResumePlan plan = plan_resume(match(896, {}), 8);
  EXPECT_EQ(plan.start, 0);
  EXPECT_EQ(plan.hit, 0);
  EXPECT_EQ(plan.stored, 896) << "its pages are read, not written again";
}

}  // namespace
}  // namespace kvasir
