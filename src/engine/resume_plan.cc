// The choice between a snapshot, a replay and nothing; see resume_plan.h.
#include "engine/resume_plan.h"

#include "model/kv_layout.h"

namespace kvasir {

ResumePlan plan_resume(const PrefixMatch& match, int layers) {
  ResumePlan plan;
  plan.stored = match.page_tokens;
  if (!match.points.empty()) plan.snapshot = match.points.back().length;
  plan.start = plan.hit = plan.snapshot;
  int64_t replay_start = match.page_tokens - int64_t{kPageTokens} * layers;
  if (replay_start > plan.start) {
    plan.snapshot = 0;
    plan.start = replay_start;
    plan.hit = match.page_tokens;
    plan.replayed = match.page_tokens - replay_start;
  }
  return plan;
}

}  // namespace kvasir
