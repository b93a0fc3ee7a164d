#include "api/usage.h"

namespace kvasir {
namespace {

void write_extension(const CacheHit& cache, JsonWriter& json) {
  json.begin_object("kvasir")
      .field("hit_tokens", cache.hit_tokens)
      .field("replayed_tokens", cache.replayed_tokens);
  json.field("tier", cache_tier_name(cache.tier)).field("restore_ms", cache.restore_ms).end_object();
}

}  // namespace

const char* cache_tier_name(CacheTier tier) {
  switch (tier) {
    case CacheTier::kNone:
      return "none";
    case CacheTier::kMemory:
      return "memory";
    case CacheTier::kDisk:
      return "disk";
  }
  return "none";
}

void write_chat_usage(const Usage& usage, JsonWriter& json) {
  json.begin_object().field("prompt_tokens", usage.prompt_tokens);
  json.field("completion_tokens", usage.completion_tokens);
  json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.field("prompt_cache_hit_tokens", usage.cache.hit_tokens);
  json.field("prompt_cache_miss_tokens", usage.miss_tokens());
  json.begin_object("prompt_tokens_details").field("cached_tokens", usage.cache.hit_tokens).end_object();
  json.begin_object("completion_tokens_details")
      .field("reasoning_tokens", usage.reasoning_tokens)
      .end_object();
  write_extension(usage.cache, json);
  json.end_object();
}

void write_responses_usage(const Usage& usage, JsonWriter& json) {
  json.begin_object().field("input_tokens", usage.prompt_tokens);
  json.begin_object("input_tokens_details").field("cached_tokens", usage.cache.hit_tokens).end_object();
  json.field("output_tokens", usage.completion_tokens);
  json.begin_object("output_tokens_details").field("reasoning_tokens", usage.reasoning_tokens).end_object();
  json.field("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  write_extension(usage.cache, json);
  json.end_object();
}

void write_messages_usage(const Usage& usage, JsonWriter& json) {
  json.begin_object().field("input_tokens", usage.miss_tokens());
  json.field("cache_creation_input_tokens", 0).field("cache_read_input_tokens", usage.cache.hit_tokens);
  json.field("output_tokens", usage.completion_tokens);
  write_extension(usage.cache, json);
  json.end_object();
}

}  // namespace kvasir
