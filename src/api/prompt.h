// Prompt: the token ids that a request becomes, and what the engine and the parser must know about them.
//
// The conversation is rendered to text (text/chat_template.h), cut at the tokens that structure it, and
// encoded piece by piece: cutting right before or after an added token never changes ids (TOK-3), so the
// whole is what one encode would give. A piece that is an answer the model gave before, and the client sends
// back unchanged, is not encoded: its sampled tokens stand there (RPL-1). Pure but for the memory; any
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "api/chat_request.h"
#include "api/errors.h"
#include "api/replay_memory.h"
#include "api/segment_cache.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace kvasir {

struct Prompt {
  std::vector<int32_t> ids;
  int64_t system_tokens = 0;  // system text and tools, up to the first user token; 0: there are none
  // Lengths where later requests branch off, ascending: after each assistant token, before the think token
  // (CACHE-4).
  std::vector<int64_t> resume_points;
  bool in_reasoning = false;
  int replayed_turns = 0;   // answers whose sampled tokens were used
  int recovered_turns = 0;  // answers whose missing reasoning the memory gave (THK-3)
};

struct PromptOptions {
  uint64_t cache_namespace = 0;
  ReplayMemory* memory = nullptr;    // null: every answer is rendered
  SegmentCache* segments = nullptr;  // null: every piece is encoded
};

// kInvalid: a tool result answers no earlier call (ENC-9, RPL-3), or what render_chat refuses.
Result<Prompt> build_prompt(const ChatRequest& request, const Tokenizer& tokenizer,
                            const PromptOptions& options);

// How many tokens may be generated; an error if the prompt leaves none (ERR-1). Check before prefill.
struct Fit {
  int64_t max_tokens = 0;
  std::optional<ApiError> error;
};
Fit fit_max_tokens(const ChatRequest& request, int64_t prompt_tokens, int64_t max_context);

}  // namespace kvasir
