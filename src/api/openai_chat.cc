// Messages are read by the text room (conversation_from_json); here are the fields around them.
#include "api/openai_chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "api/json_fields.h"
#include "api/request_rules.h"

namespace kvasir {
namespace {

constexpr size_t kMaxUserIdBytes = 512;

Status read_user_id(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(request.user_id, body.text("user_id"));
  const bool fits =
      request.user_id.size() <= kMaxUserIdBytes &&
      request.user_id.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") ==
          std::string::npos;
  if (!fits) return body.wrong("user_id", "at most 512 letters, digits, - and _");
  return {};
}

// The message list, with what only the fixtures' shape has taken out again: tools, response formats and tasks
// of single messages never come from a client (ENC-4).
Status read_messages(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY(const JsonValue::Array* messages, body.array("messages"));
  if (messages == nullptr) return body.wrong("messages", "an array of messages");
  if (messages->size() > options.limits.messages) {
    return Error{ErrorCode::kInvalid, fmt::format("messages: expected at most {}, saw {}",
                                                  options.limits.messages, messages->size())};
  }
  KVASIR_TRY(request.conversation, conversation_from_json(*body.find("messages"), options.other_parts));
  for (Message& m : request.conversation.messages) {
    m.tools.clear();
    m.response_format.reset();
    m.task = MessageTask::kNone;
    // SYS-1 leading, SYS-2 later: the template's own developer role would vanish from some prompts.
    if (m.role == Role::kDeveloper) m.role = Role::kSystem;
  }
  return {};
}

Status read_tools(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY(const JsonValue::Array* tools, read_tool_list(body, options.limits));
  if (tools == nullptr) return {};
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    const JsonFields fields((*tools)[i], path);
    KVASIR_TRY(const std::string type, fields.text("type"));
    if (!type.empty() && type != "function") return fields.wrong("type", "\"function\"");
    KVASIR_TRY(const JsonValue* function, fields.object("function"));
    if (function == nullptr) return fields.wrong("function", "an object");
    const JsonFields inner(*function, path + ".function");
    KVASIR_TRY(const std::string name, inner.required_text("name"));
    KVASIR_TRY(const bool strict, inner.flag("strict", false));
    KVASIR_TRY_STATUS(add_tool(*function, {.prompt_name = name, .name = name, .strict = strict},
                               path + ".function", request));
  }
  return {};
}

Status read_tool_choice(const JsonFields& body, ChatRequest& request) {
  const JsonValue* choice = body.find("tool_choice");
  if (choice == nullptr) return {};
  constexpr std::string_view kExpected = "\"none\", \"auto\", \"required\" or a function by name";
  if (choice->is_string()) {
    const std::string& name = choice->as_string();
    if (name != "none" && name != "auto" && name != "required") return body.wrong("tool_choice", kExpected);
    request.tool_use = name == "none" ? ToolUse::kNone : name == "auto" ? ToolUse::kAuto : ToolUse::kRequired;
    return {};
  }
  const JsonValue* function = choice->find("function");
  const JsonValue* name = function == nullptr ? nullptr : function->find("name");
  if (name == nullptr || !name->is_string()) return body.wrong("tool_choice", kExpected);
  return force_tool(name->as_string(), "tool_choice.function.name", request);
}

Status read_response_format(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* format, body.object("response_format"));
  if (format == nullptr) return {};
  const JsonFields fields(*format, "response_format");
  if (!fields.has("json_schema")) return read_reply_format(fields, fields, request);
  KVASIR_TRY(const JsonValue* wrapper, fields.object("json_schema"));
  return read_reply_format(fields, JsonFields(*wrapper, "response_format.json_schema"), request);
}

Status read_stream_options(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* options, body.object("stream_options"));
  if (options == nullptr) return {};
  if (!request.stream) return body.wrong("stream_options", "\"stream\": true beside it");
  KVASIR_TRY(request.include_usage, JsonFields(*options, "stream_options").flag("include_usage", false));
  return {};
}

Status read_max_tokens(const JsonFields& body, ChatRequest& request) {
  for (std::string_view key : {"max_completion_tokens", "max_tokens"}) {
    KVASIR_TRY(const std::optional<int64_t> tokens, body.integer(key, 1, INT64_MAX));
    if (tokens) request.max_tokens = *tokens;
  }
  return {};
}

Status read_effort(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  ThinkingAsked asked{.effort_path = "reasoning_effort"};
  KVASIR_TRY(asked.enabled, read_thinking_type(body));
  KVASIR_TRY(std::string effort, body.text("reasoning_effort"));
  if (!effort.empty()) asked.effort = std::move(effort);
  return settle_thinking(asked, options, request);
}

Status read_fields(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY_STATUS(read_effort(body, options, request));
  KVASIR_TRY_STATUS(read_messages(body, options, request));
  KVASIR_TRY_STATUS(read_tools(body, options, request));
  for (std::string_view key : {"functions", "function_call"}) {
    if (body.has(key)) return body.wrong(key, "nothing: this form is retired, use tools and tool_choice");
  }
  KVASIR_TRY_STATUS(read_tool_choice(body, request));
  KVASIR_TRY_STATUS(read_response_format(body, request));
  KVASIR_TRY_STATUS(read_stream_options(body, request));
  KVASIR_TRY_STATUS(read_max_tokens(body, request));
  KVASIR_TRY_STATUS(read_stop(body, "stop", options.limits, request));
  KVASIR_TRY_STATUS(read_logprobs(body, options.limits, request));
  KVASIR_TRY_STATUS(read_user_id(body, request));
  return settle_request(options, request);
}

}  // namespace

Result<ChatRequest> parse_chat(std::string_view text, const ApiOptions& options) {
  return read_request(text, Dialect::kChat, options, read_fields);
}

}  // namespace kvasir
