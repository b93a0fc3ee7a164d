// What Ctrl-C does while a guard lives, and after it.
#include "cli/interrupt.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace kvasir {
namespace {

TEST(InterruptGuard, RaisesTheFlagAndNothingElse) {
  InterruptGuard guard(SecondInterrupt::kEndsProgram);
  EXPECT_FALSE(guard.interrupted());
  raise(SIGINT);
  EXPECT_TRUE(guard.interrupted());
  EXPECT_TRUE(guard.flag().load());
  guard.clear();
  EXPECT_FALSE(guard.interrupted());
  raise(SIGINT);
  EXPECT_TRUE(guard.interrupted()) << "after clear() the next one is a first one again";
}

TEST(InterruptGuard, AFreshGuardIsNotInterrupted) {
  {
    InterruptGuard guard(SecondInterrupt::kIsIgnored);
    raise(SIGINT);
    raise(SIGINT);
    raise(SIGINT);
    EXPECT_TRUE(guard.interrupted());
  }
  InterruptGuard next(SecondInterrupt::kIsIgnored);
  EXPECT_FALSE(next.interrupted());
}

TEST(InterruptGuard, PutsBackWhatWasThereBefore) {
  struct sigaction before = {}, after = {};
  before.sa_handler = SIG_IGN;
  struct sigaction original;
  sigaction(SIGINT, &before, &original);
  {
    InterruptGuard guard(SecondInterrupt::kIsIgnored);
  }
  sigaction(SIGINT, &original, &after);
  EXPECT_EQ(after.sa_handler, SIG_IGN);
}

TEST(InterruptGuardDeathTest, ASecondCtrlCEndsAProgramThatDoesNotPoll) {
  EXPECT_EXIT(
      {
        InterruptGuard guard(SecondInterrupt::kEndsProgram);
        raise(SIGINT);
        raise(SIGINT);
        std::exit(0);
      },
      testing::KilledBySignal(SIGINT), "");
}

TEST(InterruptGuardDeathTest, TwoGuardsAreABug) {
  EXPECT_DEATH(
      {
        InterruptGuard one(SecondInterrupt::kIsIgnored);
        InterruptGuard two(SecondInterrupt::kIsIgnored);
      },
      "two InterruptGuards");
}

}  // namespace
}  // namespace kvasir
