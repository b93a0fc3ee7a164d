// What measured times make of the next steps, with times made up.
#include "engine/pacer.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

TEST(ChunkPacer, KeepsAStepBesideDecodeWithinTheGap) {
  ChunkPacer pacer(512, 0.05);
  for (int i = 0; i < 50; ++i) pacer.record(2, 0, 0.01);
  for (int i = 0; i < 50; ++i) {
    int64_t n = pacer.chunk_tokens();
    pacer.record(2, n, 0.01 + 0.0005 * static_cast<double>(n));
  }
  EXPECT_EQ(pacer.chunk_tokens(), 80) << "10 ms of decode and 80 x 0.5 ms";
}

TEST(ChunkPacer, AllowsASlowModelTwiceItsDecodeStep) {
  ChunkPacer pacer(512, 0.05);
  for (int i = 0; i < 50; ++i) pacer.record(1, 0, 0.4);
  for (int i = 0; i < 50; ++i) pacer.record(1, 64, 0.4 + 64 * 0.01);
  EXPECT_EQ(pacer.chunk_tokens(), 32) << "as much prefill as fits into 0.4 s, in sixteens";
}

TEST(ChunkPacer, ShrinksAsTokensGrowDearerAndNeverStops) {
  ChunkPacer pacer(512, 0.05);
  int64_t before = 512;
  for (double cost : {1e-5, 1e-4, 1e-3, 1e-1}) {
    for (int i = 0; i < 60; ++i) pacer.record(0, 512, 512 * cost);
    EXPECT_LE(pacer.chunk_tokens(), before);
    before = pacer.chunk_tokens();
  }
  EXPECT_EQ(before, ChunkPacer::kSmallest);
}

// Steps of `pacer` where plain ones take 10 ms a token and drafted ones `drafted_seconds` for `tokens` of
// them.
int drafted_steps(DraftPacer& pacer, int steps, int64_t tokens, double drafted_seconds) {
  int drafted = 0;
  for (int i = 0; i < steps; ++i) {
    bool now = pacer.drafting();
    drafted += now;
    pacer.record(now, now ? tokens : 1, now ? drafted_seconds : 0.01);
  }
  return drafted;
}

TEST(DraftPacer, StopsDraftsThatDoNotPay) {
  DraftPacer pacer;
  drafted_steps(pacer, 100, 1, 0.015);
  EXPECT_FALSE(pacer.drafting());
  EXPECT_LT(drafted_steps(pacer, 4000, 1, 0.015), 400) << "it looks again now and then";
}

TEST(DraftPacer, KeepsDraftsThatPay) {
  DraftPacer pacer;
  drafted_steps(pacer, 100, 2, 0.015);
  EXPECT_TRUE(pacer.drafting());
  EXPECT_GT(drafted_steps(pacer, 4000, 2, 0.015), 3600);
}

TEST(DraftPacer, ChangesItsMindWhenTheTextDoes) {
  DraftPacer pacer;
  drafted_steps(pacer, 200, 1, 0.015);
  ASSERT_FALSE(pacer.drafting());
  drafted_steps(pacer, 2000, 2, 0.012);
  EXPECT_TRUE(pacer.drafting());
  drafted_steps(pacer, 2000, 1, 0.015);
  EXPECT_FALSE(pacer.drafting());
}

}  // namespace
}  // namespace kvasir
