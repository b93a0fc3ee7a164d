// When the bar is drawn, and what it says, with a clock that the test turns.
#include "cli/progress_bar.h"

#include <gtest/gtest.h>

#include <vector>

namespace kvasir {
namespace {

constexpr const char* kErase = "\r\033[K";

struct Screen {
  double now = 100;
  std::vector<std::string> drawn;
  ProgressBar bar{[this] { return now; }, [this](const std::string& text) { drawn.push_back(text); }};

  void tick_at(double seconds, int64_t done) {
    now = 100 + seconds;
    bar.tick(done);
  }
};

TEST(ProgressBar, StaysQuietForTheFirstSecond) {
  Screen s;
  s.bar.begin("loading", ProgressUnit::kBytes, 100);
  s.tick_at(0.5, 50);
  s.tick_at(0.99, 99);
  s.bar.end();
  EXPECT_TRUE(s.drawn.empty());
}

TEST(ProgressBar, ShowsShareAmountRateAndTimeLeft) {
  Screen s;
  s.bar.begin("loading", ProgressUnit::kBytes, 160'000'000'000);
  s.tick_at(20, 40'000'000'000);
  ASSERT_EQ(s.drawn.size(), 1u);
  EXPECT_EQ(s.drawn[0], std::string(kErase) +
                            "loading  25% [#####...............]  40.0 GB of 160 GB  2.00 GB/s  1:00 left");
}

TEST(ProgressBar, CountsTokensAsTokens) {
  Screen s;
  s.bar.begin("prefill", ProgressUnit::kTokens, 1'048'576);
  s.tick_at(2, 128);
  ASSERT_EQ(s.drawn.size(), 1u);
  EXPECT_EQ(s.drawn[0],
            std::string(kErase) +
                "prefill   0% [....................]  128 of 1,048,576 tokens  64.0 tokens/s  4:33:02 left");
}

TEST(ProgressBar, DrawsAtMostTenTimesASecond) {
  Screen s;
  s.bar.begin("x", ProgressUnit::kTokens, 1000);
  for (int ms = 1000; ms < 2000; ++ms) s.tick_at(ms / 1000.0, ms);
  EXPECT_LE(s.drawn.size(), 10u);
  EXPECT_GE(s.drawn.size(), 9u);
}

TEST(ProgressBar, RemovesItsLineAtTheEndAndOnlyOnce) {
  Screen s;
  s.bar.begin("x", ProgressUnit::kBytes, 10);
  s.tick_at(2, 5);
  s.bar.end();
  s.bar.end();
  ASSERT_EQ(s.drawn.size(), 2u);
  EXPECT_EQ(s.drawn[1], kErase);
  s.tick_at(3, 6);
  EXPECT_EQ(s.drawn.size(), 2u) << "a tick after the end draws nothing";
}

TEST(ProgressBar, ANewJobHasItsOwnQuietSecond) {
  Screen s;
  s.bar.begin("one", ProgressUnit::kBytes, 10);
  s.tick_at(5, 5);
  s.bar.begin("two", ProgressUnit::kBytes, 10);
  ASSERT_EQ(s.drawn.size(), 2u);
  EXPECT_EQ(s.drawn[1], kErase) << "the first line is removed";
  s.tick_at(5.9, 1);
  EXPECT_EQ(s.drawn.size(), 2u);
  s.tick_at(6.1, 1);
  EXPECT_EQ(s.drawn.size(), 3u);
}

TEST(ProgressBar, WithoutATotalThereIsNoShareAndNoTimeLeft) {
  Screen s;
  s.bar.begin("reading", ProgressUnit::kBytes, 0);
  s.tick_at(2, 3000);
  ASSERT_EQ(s.drawn.size(), 1u);
  EXPECT_EQ(s.drawn[0], std::string(kErase) + "reading  3.00 kB  1.50 kB/s");
}

TEST(ProgressBar, SurvivesNothingDoneAndMoreThanAll) {
  Screen s;
  s.bar.begin("x", ProgressUnit::kBytes, 10);
  s.tick_at(2, 0);
  s.tick_at(3, 20);
  ASSERT_EQ(s.drawn.size(), 2u);
  EXPECT_EQ(s.drawn[0].find("left"), std::string::npos) << s.drawn[0];
  EXPECT_NE(s.drawn[1].find("100% [####################]"), std::string::npos) << s.drawn[1];
}

TEST(ProgressBar, WithoutATerminalNothingIsDrawnAndNothingBreaks) {
  double now = 0;
  ProgressBar bar([&] { return now; }, nullptr);
  bar.begin("x", ProgressUnit::kBytes, 10);
  now = 5;
  bar.tick(5);
  bar.end();
}

}  // namespace
}  // namespace kvasir
