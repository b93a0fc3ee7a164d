#include "api/logprobs.h"

#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr std::string_view kEosSpelled = "<｜｜end▁of▁sentence｜｜>";

std::string spelled(int32_t id, const Tokenizer& tokenizer) {
  const std::string_view bytes = tokenizer.token_bytes(id);
  return std::string(bytes == kEosText && tokenizer.is_added(id) ? kEosSpelled : bytes);
}

// JsonWriter puts U+FFFD where a token is part of a character; `bytes` has the truth.
void write_token(std::string_view bytes, double logprob, JsonWriter& json) {
  json.field("token", bytes).field("logprob", logprob).begin_array("bytes");
  for (const char c : bytes) json.value(static_cast<int>(static_cast<unsigned char>(c)));
  json.end_array();
}

void write_list_or_null(std::string_view key, const Logprobs& list, JsonWriter& json) {
  json.key(key);
  if (list.empty()) {
    json.null();
  } else {
    write_logprob_list(list, json);
  }
}

}  // namespace

TokenLogprob token_logprob(const SampledToken& token, const Tokenizer& tokenizer) {
  TokenLogprob out{spelled(token.id, tokenizer), token.logprob};
  for (const auto& [id, logprob] : token.top) out.top.emplace_back(spelled(id, tokenizer), logprob);
  return out;
}

void write_logprob_list(const Logprobs& list, JsonWriter& json) {
  json.begin_array();
  for (const TokenLogprob& token : list) {
    json.begin_object();
    write_token(token.bytes, token.logprob, json);
    json.begin_array("top_logprobs");
    for (const auto& [bytes, logprob] : token.top) {
      json.begin_object();
      write_token(bytes, logprob, json);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array();
}

void write_chat_logprobs(bool wanted, const Logprobs& content, const Logprobs& reasoning, JsonWriter& json) {
  if (!wanted) {
    json.null();
    return;
  }
  json.begin_object();
  write_list_or_null("content", content, json);
  write_list_or_null("reasoning_content", reasoning, json);
  json.end_object();
}

void write_completion_logprobs(const Logprobs& list, size_t offset, JsonWriter& json) {
  json.begin_object().begin_array("tokens");
  for (const TokenLogprob& token : list) json.value(token.bytes);
  json.end_array().begin_array("token_logprobs");
  for (const TokenLogprob& token : list) json.value(token.logprob);
  json.end_array().begin_array("top_logprobs");
  for (const TokenLogprob& token : list) {
    json.begin_object();
    for (const auto& [bytes, logprob] : token.top) json.field(bytes, logprob);
    json.end_object();
  }
  json.end_array().begin_array("text_offset");
  for (const TokenLogprob& token : list) {
    json.value(offset);
    offset += token.bytes.size();
  }
  json.end_array().end_object();
}

}  // namespace kvasir
