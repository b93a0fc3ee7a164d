// Generator: one prompt in, tokens out, with or without MTP drafts.
//
// Drafts never change the text: every emitted token is sampled from the trunk's logits at its own
// position with that position's random number; a draft only lets the next row be computed in the same
// step, and counts when the sample equals it (spec 8, verification).
#pragma once

#include <atomic>
#include <functional>

#include "base/progress.h"
#include "engine/runner.h"
#include "engine/sampler.h"

namespace kvasir {

struct GenerationOptions {
  SamplingParams sampling;
  int64_t max_tokens = 256;
  std::vector<int32_t> stop_ids;                   // generation ends before these (EOS)
  int draft_tokens = 0;                            // MTP drafts per step; 0: none. At most kRollbackSlack - 1
  Snapshot* snapshot = nullptr;                    // if set, receives the sequence's state after ...
  int64_t snapshot_after = 0;                      // ... this many tokens of the prompt; 0: not at all
  const std::atomic<bool>* interrupted = nullptr;  // polled between steps; may be null
  ProgressSink* progress = nullptr;                // prefill, in tokens; may be null
};

enum class GenerationEnd { kStop, kLength, kCancelled };

struct GenerationStats {
  int64_t prompt_tokens = 0;  // that were computed: fewer than were given if it was cancelled
  int64_t cached_tokens = 0;  // prompt tokens that were already in the sequence
  int64_t generated_tokens = 0;
  int64_t decode_steps = 0;
  int64_t drafted = 0, accepted = 0;
  double prefill_seconds = 0, decode_seconds = 0;
};

struct GenerationResult {
  GenerationEnd end = GenerationEnd::kStop;
  GenerationStats stats;
};

// Appends `prompt` to `sequence` and generates. `on_token` sees each token as it is sampled (stop ids are
// not shown) and returns false to end there. On return the sequence holds the prompt and every token shown
// but possibly the last. An answer ends where the model's context does; a prompt that fills it is an error.
// The clock is read only for the statistics.
Result<GenerationResult> generate(Runner& runner, Sequence& sequence, std::span<const int32_t> prompt,
                                  const GenerationOptions& options,
                                  const std::function<bool(const SampledToken&)>& on_token);

}  // namespace kvasir
