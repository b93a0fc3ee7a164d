// Shares of a step; see scheduler.h.
#include "engine/scheduler.h"

#include <algorithm>

namespace kvasir {
namespace {

// Hands `budget` rows to the prefilling sequences of one priority: equal shares first, the rest to the
// oldest.
int64_t share(std::span<const Schedulable> sequences, Priority priority, int64_t budget,
              std::vector<int64_t>& rows) {
  auto takes_part = [&](size_t i) {
    return sequences[i].pending > 1 && sequences[i].priority == priority && rows[i] < sequences[i].limit;
  };
  while (budget > 0) {
    int64_t hungry = 0;
    for (size_t i = 0; i < sequences.size(); ++i) hungry += takes_part(i);
    if (hungry == 0) break;
    int64_t each = std::max<int64_t>(1, budget / hungry);
    for (size_t i = 0; i < sequences.size() && budget > 0; ++i) {
      if (!takes_part(i)) continue;
      int64_t n = std::min({each, budget, sequences[i].limit - rows[i]});
      rows[i] += n;
      budget -= n;
    }
  }
  return budget;
}

}  // namespace

void plan_step(std::span<const Schedulable> sequences, const StepBudget& budget, std::vector<int64_t>& rows) {
  rows.assign(sequences.size(), 0);
  int64_t left = budget.step_tokens;
  bool decoding = false;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (sequences[i].pending != 1) continue;
    rows[i] = 1 + sequences[i].drafts;
    left -= rows[i];
    decoding = true;
  }
  if (decoding) left = std::min(left, budget.chunk_tokens);
  left = share(sequences, Priority::kInteractive, std::max<int64_t>(0, left), rows);
  share(sequences, Priority::kBatch, left, rows);
}

int64_t choose_victim(std::span<const Priority> holders) {
  int64_t victim = -1;
  for (size_t i = 0; i < holders.size(); ++i)
    if (victim < 0 || holders[i] >= holders[victim]) victim = static_cast<int64_t>(i);
  return victim;
}

}  // namespace kvasir
