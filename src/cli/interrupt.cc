// The signal handler behind InterruptGuard. A handler can reach nothing but globals, so there are three.
#include "cli/interrupt.h"

#include "base/check.h"

namespace kvasir {
namespace {

std::atomic<bool> g_interrupted{false};
std::atomic<bool> g_second_ends{false};
std::atomic<bool> g_guarded{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may touch only lock-free atomics");

// Async-signal-safe: atomics, sigaction and raise only.
extern "C" void on_interrupt(int signal) {
  bool second = g_interrupted.exchange(true);
  if (!second || !g_second_ends.load()) return;
  struct sigaction end = {};
  end.sa_handler = SIG_DFL;
  sigaction(signal, &end, nullptr);
  raise(signal);  // delivered when this handler returns; the shell sees 130
}

}  // namespace

InterruptGuard::InterruptGuard(SecondInterrupt second) {
  KVASIR_CHECK(!g_guarded.exchange(true), "two InterruptGuards at once");
  g_interrupted = false;
  g_second_ends = second == SecondInterrupt::kEndsProgram;
  struct sigaction action = {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  KVASIR_CHECK(sigaction(SIGINT, &action, &before_) == 0, "sigaction(SIGINT) failed");
}

InterruptGuard::~InterruptGuard() {
  sigaction(SIGINT, &before_, nullptr);
  g_guarded = false;
}

bool InterruptGuard::interrupted() const { return g_interrupted.load(std::memory_order_relaxed); }

void InterruptGuard::clear() { g_interrupted = false; }

const std::atomic<bool>& InterruptGuard::flag() const { return g_interrupted; }

}  // namespace kvasir
