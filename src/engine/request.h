// Request: what one client wants from the engine, in token ids, and what it gets back.
//
// No text, no JSON, no sockets: whoever makes the request knows those. Values only; the engine owns a request
// from Engine::submit on.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_constraint.h"
#include "cache/cache_tier.h"
#include "engine/sampler.h"

namespace kvasir {

// Served strictly in this order; within one, first come first served.
enum class Priority { kInteractive, kBatch };

struct Request {
  std::string id;  // for logs only
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  int64_t max_tokens = 256;       // generated ones; clamped to what the context leaves
  std::vector<int32_t> stop_ids;  // generation ends before these; they are not in the stream
  Priority priority = Priority::kInteractive;

  // Length of what many conversations share: the system text and tools; 0: nothing. The engine keeps a
  // snapshot there.
  int64_t system_tokens = 0;
  // Lengths of the prompt, ascending, where a later request is likely to branch off: before the think token
  // (CACHE-4), after each tool result. The engine keeps a snapshot at each of the last few that it computes,
  // and at the end of the prompt and of the output.
  std::vector<int64_t> resume_points;
  // Sequences of different namespaces share no cached page (hash seed). 0: the common one.
  uint64_t cache_namespace = 0;

  std::unique_ptr<TokenConstraint> constraint;  // null: none
  // Tokens that are "sampled" whatever the logits say, then generation goes on as usual or, if the last of
  // them is a stop id, ends. The model computes every step. A test aid (`kvasir serve --replay`).
  std::vector<int32_t> script;
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

struct CacheHit {
  int64_t hit_tokens = 0;  // of the prompt, not computed again
  int64_t replayed_tokens =
      0;  // computed again only to rebuild windows; counted in hit_tokens: their pages were kept
  CacheTier tier = CacheTier::kNone;  // of its pages and snapshot; with several, the slowest that was needed
  double restore_ms =
      0;  // time the sequence waited for its pages and state; not that in which it computed meanwhile
};

enum class EndReason {
  kStop,       // a stop id was sampled
  kLength,     // max_tokens or the context
  kCancelled,  // the reader asked, or went away
  kDeadline,   // Request::deadline passed
  kFailed,     // `error` says why; nothing is wrong with the request
};

struct StreamEvent {
  enum class Kind {
    kAdmitted,  // `hit` is known; prefill begins
    kPrefill,   // `prefilled` tokens of the prompt are in the cache
    kToken,     // `token`
    kEnd,       // last event: `reason`, `error`
  };
  Kind kind = Kind::kToken;
  CacheHit hit;
  int64_t prefilled = 0;
  SampledToken token;
  EndReason reason = EndReason::kStop;
  Error error;
};

}  // namespace kvasir
