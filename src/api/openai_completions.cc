#include "api/openai_completions.h"

#include <fmt/format.h>

#include "api/json_fields.h"
#include "api/request_rules.h"

namespace kvasir {
namespace {

constexpr int64_t kDefaultTokens = 4096;  // what the hosted service generates at most here

Result<std::vector<int32_t>> read_ids(const JsonValue::Array& list, const std::string& path) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::optional<int64_t> id = list[i].is_number() ? list[i].as_int64() : std::nullopt;
    if (!id || *id < 0 || *id > INT32_MAX) {
      return expected_at(fmt::format("{}[{}]", path, i), "a token id", &list[i]);
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

// A string, a list of ids, or a list with one of those: an answer for each of several prompts is not made.
Status read_prompt(const JsonFields& body, RawPrompt& raw) {
  const JsonValue* prompt = body.find("prompt");
  std::string path = "prompt";
  if (prompt != nullptr && prompt->is_array() && prompt->as_array().size() == 1 &&
      !prompt->as_array()[0].is_number()) {
    prompt = &prompt->as_array()[0];
    path = "prompt[0]";
  }
  if (prompt != nullptr && prompt->is_string()) {
    raw.text = prompt->as_string();
    return {};
  }
  if (prompt == nullptr || !prompt->is_array() || prompt->as_array().empty()) {
    return expected_at(path, "a string or an array of token ids", prompt);
  }
  if (!prompt->as_array()[0].is_number()) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("{}: expected one prompt, saw {}", path, prompt->as_array().size())};
  }
  KVASIR_TRY(raw.tokens, read_ids(prompt->as_array(), path));
  return {};
}

Status read_raw(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  RawPrompt raw;
  KVASIR_TRY_STATUS(read_prompt(body, raw));
  if (body.has("suffix")) {
    KVASIR_TRY(raw.suffix, body.text("suffix"));
    if (raw.tokens) return body.wrong("suffix", "a prompt of text beside it");
  }
  KVASIR_TRY(raw.echo, body.flag("echo", false));
  KVASIR_TRY(const std::optional<int64_t> logprobs, body.integer("logprobs", 0, options.limits.top_logprobs));
  if (logprobs) request.sampling.top_logprobs = static_cast<int>(*logprobs);
  if (raw.echo && (raw.tokens || logprobs)) {
    return body.wrong("echo", "false with a prompt of token ids or with logprobs");
  }
  request.raw = std::move(raw);
  return {};
}

Status read_fields(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  request.render = {.revision = options.revision, .thinking = Thinking::kOff};
  request.tool_use = ToolUse::kNone;
  KVASIR_TRY_STATUS(read_raw(body, options, request));
  KVASIR_TRY_STATUS(read_stop(body, "stop", options.limits, request));
  KVASIR_TRY(const JsonValue* stream_options, body.object("stream_options"));
  if (stream_options != nullptr) {
    if (!request.stream) return body.wrong("stream_options", "\"stream\": true beside it");
    KVASIR_TRY(request.include_usage,
               JsonFields(*stream_options, "stream_options").flag("include_usage", false));
  }
  KVASIR_TRY(const std::optional<int64_t> max_tokens, body.integer("max_tokens", 1, INT64_MAX));
  request.max_tokens = max_tokens.value_or(kDefaultTokens);
  KVASIR_TRY(request.user_id, body.text("user_id"));
  return {};
}

}  // namespace

Result<ChatRequest> parse_completion(std::string_view text, const ApiOptions& options) {
  return read_request(text, Dialect::kCompletions, options, read_fields);
}

}  // namespace kvasir
