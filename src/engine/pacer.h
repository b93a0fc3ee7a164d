// Pacers: what the last steps took decides how long the next may be and whether drafts pay. Pure: times come
// in.
//
// Both only move work between steps. With numerics that do not depend on the batch (docs/numerics.md) the
// tokens are the same whatever they decide; under `fast` a chunk's length can change how sums round.
#pragma once

#include <array>
#include <cstdint>

namespace kvasir {

// ChunkPacer: how many tokens of prefill may ride along with decode rows.
//
// Models a step as a + b * (rows of prefill) and picks the rows for which the step takes no longer than
// max(`gap_seconds`, twice a step of decode alone): a running stream is slowed to half, or to the gap that
// nobody notices, but never stalled. b follows the context: late chunks of a long prompt cost more and so get
// shorter.
class ChunkPacer {
 public:
  static constexpr int64_t kSmallest = 16;  // prefill always goes on

  ChunkPacer(int64_t step_tokens, double gap_seconds)
      : step_tokens_(step_tokens), gap_seconds_(gap_seconds) {}
  void record(int64_t decode_rows, int64_t prefill_rows, double seconds);
  int64_t chunk_tokens() const;

 private:
  int64_t step_tokens_;
  double gap_seconds_;
  double decode_seconds_ = 0;     // a step of decode rows alone; 0: none seen
  double seconds_per_token_ = 0;  // of prefill; 0: none seen
};

// DraftPacer: drafts are used while they are measured to make more tokens a second than plain steps do.
//
// Tries both for some steps, keeps the better one, and tries the other again from time to time, since
// acceptance changes with the text. The first steps after a switch are not counted: the draft block's window
// fills first.
class DraftPacer {
 public:
  bool drafting() const { return drafting_; }
  // A step that only decoded: with drafts or without, its tokens and time, drafting included.
  void record(bool drafted, int64_t tokens, double seconds);

 private:
  static constexpr int kWarmUp = 16, kTrial = 16, kStay = 512;
  struct Rate {
    double tokens = 0, seconds = 0;
    double value() const { return seconds > 0 ? tokens / seconds : 0; }
  };
  void turn(bool drafting);

  bool drafting_ = true;
  bool compared_ = false;      // both have been measured since the last trial began
  int steps_ = 0;              // in this mode
  std::array<Rate, 2> rates_;  // plain, drafted: of the last trial
};

}  // namespace kvasir
