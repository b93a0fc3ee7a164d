// Progress: how a long job tells whoever runs it how far it is, without knowing who that is.
//
// The job calls `tick(done)` as often as it likes (cheap); the owner decides whether anything is
// drawn. A null sink draws nothing. The terminal bar lives in cli/progress_bar.h.
#pragma once

#include <cstdint>
#include <string_view>

namespace kvasir {

enum class ProgressUnit { kBytes, kTokens };

class ProgressSink {
 public:
  virtual ~ProgressSink() = default;
  // A job of `total` units starts, is at `done`, has ended. One job at a time.
  virtual void begin(std::string_view what, ProgressUnit unit, int64_t total) = 0;
  virtual void tick(int64_t done) = 0;
  virtual void end() = 0;
};

}  // namespace kvasir
