// ActiveRequest: one submitted request and all that the engine knows of it. Engine thread only.
//
//            admitted                pages, state there               last token sampled
//   waiting ──────────► restoring ───────────────────► running ───────────────────────────► closing ──► ended
//      ▲                    │                              │                               (its last token is
//      computed, └──────────────── preempted ◄───────────────────────┘                                so that
//      the cache has it)
//
// A running sequence computes tokens[length..]; when it has computed the last of them it samples the next
// one. So prefill, decode and catching up after preemption are one thing.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/resume_plan.h"
#include "engine/sequence.h"
#include "engine/stream_state.h"

namespace kvasir {

struct SnapshotPoint {
  int64_t length = 0;
  SnapshotUse use = SnapshotUse::kPromptEnd;
};

struct ActiveRequest {
  enum class Phase { kWaiting, kRestoring, kRunning, kClosing, kEnded };

  ActiveRequest(Request r, std::shared_ptr<StreamState> s, uint64_t arrival)
      : request(std::move(r)),
        stream(std::move(s)),
        order(arrival),
        prompt_tokens(static_cast<int64_t>(request.prompt.size())),
        sampler(request.sampling) {
    tokens = std::move(request.prompt);
  }

  // Of the tokens that are known, and of those in the cache.
  int64_t known() const { return static_cast<int64_t>(tokens.size()); }
  int64_t length() const { return sequence ? sequence->length() : 0; }
  PrefixKey key(int64_t length) const {
    return {request.cache_namespace, std::span(tokens).first(static_cast<size_t>(length))};
  }

  Request request;
  std::shared_ptr<StreamState> stream;
  uint64_t order;  // of arrival
  int64_t prompt_tokens;
  Sampler sampler;
  Phase phase = Phase::kWaiting;

  std::vector<int32_t> tokens;  // the prompt, then what was sampled; a stop id is not among them
  int64_t max_tokens = 0;       // generated ones, clamped to the context
  int64_t generated = 0;
  std::vector<int32_t> drafts;          // guesses for the tokens after the last one
  EndReason reason = EndReason::kStop;  // once closing

  std::optional<Sequence> sequence;  // running and closing
  ResumePlan plan;
  std::unique_ptr<Restore> restore;  // restoring, and while its first step computes as the pages arrive
  std::chrono::steady_clock::time_point restore_begin;
  std::chrono::steady_clock::duration waited{};  // for it, before that first step
  int attempts = 0;                              // restores that lost something on the way
  int64_t published = 0;                         // pages that the cache has
  std::vector<SnapshotPoint> points;             // ascending; those below length() are done
  size_t next_point = 0;
  bool admitted = false;     // kAdmitted was sent
  int64_t prefilled = 0;     // the last kPrefill; after a preemption it waits until it is passed
  int64_t preempted_at = 0;  // length of the kPreempted snapshot; 0: none

  // A request with the same prompt up to `leader_tokens` computes it now: cheaper to wait for.
  uint64_t leader = 0;  // its order; 0: nobody
  int64_t leader_tokens = 0;
  uint64_t tried_at = 0;  // releases that had happened when admission last failed
};

}  // namespace kvasir
