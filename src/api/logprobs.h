// Log-probabilities of sampled tokens in their JSON forms.
#pragma once

#include "api/response_formatter.h"
#include "text/tokenizer.h"

namespace kvasir {

// The token as clients see it. The end token is spelled with two bars, as the hosted service does.
TokenLogprob token_logprob(const SampledToken& token, const Tokenizer& tokenizer);

// null, or {"content": [...], "reasoning_content": [...]}; a list is null where it is empty.
void write_chat_logprobs(bool wanted, const Logprobs& content, const Logprobs& reasoning, JsonWriter& json);

// Only the list: what Responses puts on a text part.
void write_logprob_list(const Logprobs& list, JsonWriter& json);

// The old form of /v1/completions; text_offset counts bytes from `offset`.
void write_completion_logprobs(const Logprobs& list, size_t offset, JsonWriter& json);

}  // namespace kvasir
