// Scheduler: what one step computes. Pure: numbers in, a plan out, no model and no clock.
//
// One rule: a sequence has tokens that are known and not in the cache yet. One such token is decode, more are
// prefill (of a prompt, or of what a preempted sequence has to catch up on). Every decoding sequence gets its
// row in every step; what is left of the budget goes to prefill chunks:
//   (1) interactive before batch: a batch chunk gets only what interactive ones leave over;
//   (2) within a priority equal shares, and what a short one does not need goes to the others, oldest first:
//   a short
//       prompt never waits for all of a long one;
//   (3) while anything decodes, chunks together hold at most `chunk_tokens` (pacer.h), so that a step stays
//   short; (4) a chunk ends where its sequence says (a snapshot point, the end of stored rows).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/request.h"

namespace kvasir {

// A running sequence, in order of arrival.
struct Schedulable {
  Priority priority = Priority::kInteractive;
  int64_t pending = 0;  // known tokens that are not in the cache; > 0
  int64_t limit = 0;    // of a chunk; 1..pending
  int64_t drafts = 0;   // rows beyond the one of a decoding sequence
};

struct StepBudget {
  int64_t step_tokens = 512;   // rows in all
  int64_t chunk_tokens = 512;  // rows of prefill while something decodes
};

// Rows of each sequence in the coming step, 0: none. Decoding sequences always get theirs, drafts included.
void plan_step(std::span<const Schedulable> sequences, const StepBudget& budget, std::vector<int64_t>& rows);

// Who gives up its pages: of the lowest priority the latest. -1: nobody. In order of arrival.
int64_t choose_victim(std::span<const Priority> holders);

}  // namespace kvasir
