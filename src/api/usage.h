// Usage: the tokens of one answer, and its form in each dialect (protocol 6.3).
#pragma once

#include <cstdint>

#include "base/json_writer.h"
#include "engine/request.h"

namespace kvasir {

struct Usage {
  int64_t prompt_tokens = 0;
  CacheHit cache = {};            // hit_tokens <= prompt_tokens - 1
  int64_t completion_tokens = 0;  // reasoning included, the end token not
  int64_t reasoning_tokens = 0;   // up to and including </think>

  int64_t miss_tokens() const { return prompt_tokens - cache.hit_tokens; }  // CACHE-1
};

// "none", "memory", "disk".
const char* cache_tier_name(CacheTier tier);

// Each writes the whole `usage` object with the `kvasir` extension in it.
void write_chat_usage(const Usage& usage, JsonWriter& json);
void write_responses_usage(const Usage& usage, JsonWriter& json);
void write_messages_usage(const Usage& usage, JsonWriter& json);

}  // namespace kvasir
