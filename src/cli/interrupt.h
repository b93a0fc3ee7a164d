// InterruptGuard: while it lives, Ctrl-C raises a flag that generation loops poll, and nothing else dies.
//
//   InterruptGuard guard(SecondInterrupt::kEndsProgram);
//   while (!guard.interrupted()) ...one token...
//
// System calls that wait are not restarted (no SA_RESTART), so that a read of the terminal returns too.
// Threading: one guard at a time in the process; `interrupted` may be called from any thread.
#pragma once

#include <signal.h>

#include <atomic>

namespace kvasir {

// What a second Ctrl-C does while the first has not been cleared. A program that loads or computes without
// polling must stay killable; in a chat, impatience must not lose the conversation.
enum class SecondInterrupt { kEndsProgram, kIsIgnored };

class InterruptGuard {
 public:
  explicit InterruptGuard(SecondInterrupt second);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  bool interrupted() const;
  // Lowers the flag: the interrupt has been answered.
  void clear();
  // The flag itself, for loops that know nothing of this room. Lives as long as the process.
  const std::atomic<bool>& flag() const;

 private:
  struct sigaction before_;
};

}  // namespace kvasir
