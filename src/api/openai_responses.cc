// Input items become messages (RSP-4): reasoning, message and call items that follow one another are one
// assistant message; each output item is a tool message, and the template joins those.
#include "api/openai_responses.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "api/json_fields.h"
#include "api/request_rules.h"
#include "api/responses_tools.h"

namespace kvasir {
namespace {

constexpr std::array<std::string_view, 4> kTextTypes = {"input_text", "output_text", "text", "summary_text"};
constexpr std::array<std::string_view, 2> kReasoningTypes = {"reasoning_text", "text"};

class ItemReader {
 public:
  ItemReader(const ApiOptions& options, ChatRequest& request) : options_(options), request_(request) {}

  Status read(const JsonValue& item, const std::string& path) {
    const JsonFields fields(item, path);
    KVASIR_TRY_STATUS(fields.check_object());
    KVASIR_TRY(const std::string type, fields.text("type"));
    if (type.empty() || type == "message") return read_message(fields);
    if (type == "reasoning") return read_reasoning(fields);
    if (type == "function_call" || type == "custom_tool_call")
      return read_call(fields, type == "custom_tool_call");
    if (type == "function_call_output" || type == "custom_tool_call_output") return read_output(fields);
    if (type == "additional_tools") {
      KVASIR_TRY(const JsonValue::Array* tools, fields.array("tools"));
      return tools == nullptr ? Status() : read_response_tools(*tools, path + ".tools", request_);
    }
    read_unknown(item);
    return {};
  }

 private:
  std::vector<Message>& messages() { return request_.conversation.messages; }

  // The assistant message that the item belongs to. What comes after a call begins a new one, unless it is a
  // call.
  Message& assistant(bool is_call) {
    if (messages().empty() || messages().back().role != Role::kAssistant ||
        (!is_call && !messages().back().tool_calls.empty())) {
      messages().push_back({.role = Role::kAssistant});
    }
    return messages().back();
  }

  Status read_message(const JsonFields& fields) {
    KVASIR_TRY(const std::string role, fields.text("role"));
    KVASIR_TRY(std::string text,
               read_text_parts(fields.find("content"), kTextTypes, options_, fields.path_of("content")));
    if (role == "assistant") {
      Message& m = assistant(false);
      append_paragraph(m.content, text);
    } else if (role == "user") {
      messages().push_back({.role = Role::kUser, .content = std::move(text)});
    } else if (role == "system" || role == "developer") {  // SYS-1 when leading, else SYS-2
      messages().push_back({.role = Role::kSystem, .content = std::move(text)});
    } else {
      return fields.wrong("role", "\"user\", \"assistant\", \"system\" or \"developer\"");
    }
    return {};
  }

  // ENC-6: the content where there is one, else the summary. encrypted_content is not looked at.
  Status read_reasoning(const JsonFields& fields) {
    std::string text;
    KVASIR_TRY(const JsonValue::Array* content, fields.array("content"));
    KVASIR_TRY(const JsonValue::Array* summary, fields.array("summary"));
    const bool has_content = content != nullptr && !content->empty();
    const JsonValue::Array* parts = has_content ? content : summary;
    for (size_t i = 0; parts != nullptr && i < parts->size(); ++i) {
      const JsonFields part((*parts)[i],
                            fmt::format("{}[{}]", fields.path_of(has_content ? "content" : "summary"), i));
      KVASIR_TRY(const std::string type, part.text("type"));
      if (has_content &&
          std::find(kReasoningTypes.begin(), kReasoningTypes.end(), type) == kReasoningTypes.end()) {
        continue;
      }
      KVASIR_TRY(const std::string piece, part.text("text"));
      text += piece;
    }
    Message& m = assistant(false);
    m.reasoning = m.reasoning.value_or("") + text;
    return {};
  }

  Status read_call(const JsonFields& fields, bool custom) {
    ToolCall call;
    KVASIR_TRY(call.id, fields.required_text("call_id"));
    KVASIR_TRY(const std::string name, fields.required_text("name"));
    KVASIR_TRY(const std::string name_space, fields.text("namespace"));
    call.name = namespaced_name(name_space, name);
    if (custom) {
      KVASIR_TRY(std::string input, fields.text("input"));
      call.arguments = JsonValue(JsonValue::Object{{"input", JsonValue(std::move(input))}});
    } else if (const JsonValue* arguments = fields.find("arguments")) {
      call.arguments = *arguments;
    }
    assistant(true).tool_calls.push_back(std::move(call));
    return {};
  }

  Status read_output(const JsonFields& fields) {
    Message result{.role = Role::kTool};
    KVASIR_TRY(result.tool_call_id, fields.required_text("call_id"));
    const JsonValue* output = fields.find("output");
    if (output != nullptr && output->is_object()) {  // {"content": "..", "success": true}
      output = output->find("content");
    }
    KVASIR_TRY(result.content, read_text_parts(output, kTextTypes, options_, fields.path_of("output")));
    messages().push_back(std::move(result));
    return {};
  }

  // RSP-1: an item of another kind is the user's text if it has any, and nothing otherwise.
  void read_unknown(const JsonValue& item) {
    for (std::string_view key : {"text", "content", "output"}) {
      const JsonValue* value = item.find(key);
      if (value == nullptr) continue;
      auto text = read_text_parts(value, kTextTypes, options_, std::string(key));
      if (!text || text->empty()) continue;
      messages().push_back({.role = Role::kUser, .content = *std::move(text)});
      return;
    }
  }

  const ApiOptions& options_;
  ChatRequest& request_;
};

Status read_input(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY(std::string instructions, body.text("instructions"));
  if (!instructions.empty()) {
    request.conversation.messages.push_back({.role = Role::kSystem, .content = std::move(instructions)});
  }
  const JsonValue* input = body.find("input");
  if (input != nullptr && input->is_string()) {
    request.conversation.messages.push_back({.role = Role::kUser, .content = input->as_string()});
    return {};
  }
  if (input == nullptr || !input->is_array() || input->as_array().empty()) {
    return body.wrong("input", "a string or an array of at least one item");
  }
  if (input->as_array().size() > options.limits.messages) {
    return Error{ErrorCode::kInvalid, fmt::format("input: expected at most {} items, saw {}",
                                                  options.limits.messages, input->as_array().size())};
  }
  ItemReader reader(options, request);
  for (size_t i = 0; i < input->as_array().size(); ++i) {
    KVASIR_TRY_STATUS(reader.read(input->as_array()[i], fmt::format("input[{}]", i)));
  }
  if (request.conversation.messages.empty()) return body.wrong("input", "at least one item with text");
  return {};
}

// What is kept elsewhere cannot be continued here: to ignore these would lose the history.
Status refuse_stored_state(const JsonFields& body) {
  for (std::string_view key : {"previous_response_id", "conversation"}) {
    if (body.has(key)) return body.wrong(key, "nothing: responses are not stored, send the full input");
  }
  return {};
}

Status read_text_format(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* text, body.object("text"));
  if (text == nullptr) return {};
  KVASIR_TRY(const JsonValue* format, JsonFields(*text, "text").object("format"));
  if (format == nullptr) return {};
  const JsonFields fields(*format, "text.format");
  return read_reply_format(fields, fields, request);
}

Status read_include(const JsonFields& body, const ApiLimits& limits, ChatRequest& request) {
  KVASIR_TRY(const JsonValue::Array* include, body.array("include"));
  KVASIR_TRY(const std::optional<int64_t> top, body.integer("top_logprobs", 0, limits.top_logprobs));
  bool logprobs = top.value_or(0) > 0;
  if (include != nullptr) {
    for (const JsonValue& what : *include) {
      if (!what.is_string()) continue;
      if (what.as_string() == "reasoning.encrypted_content") request.encrypted_reasoning = true;
      if (what.as_string() == "message.output_text.logprobs") logprobs = true;
    }
  }
  if (logprobs) request.sampling.top_logprobs = static_cast<int>(top.value_or(0));
  return {};
}

Status read_effort(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  ThinkingAsked asked{.effort_path = "reasoning.effort"};
  KVASIR_TRY(asked.enabled, read_thinking_type(body));
  KVASIR_TRY(const JsonValue* reasoning, body.object("reasoning"));
  if (reasoning != nullptr) {
    KVASIR_TRY(std::string effort, JsonFields(*reasoning, "reasoning").text("effort"));
    if (!effort.empty()) asked.effort = std::move(effort);
  }
  return settle_thinking(asked, options, request);
}

Status read_fields(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY_STATUS(refuse_stored_state(body));
  KVASIR_TRY_STATUS(read_effort(body, options, request));
  KVASIR_TRY(const JsonValue::Array* tools, body.array("tools"));
  if (tools != nullptr) KVASIR_TRY_STATUS(read_response_tools(*tools, "tools", request));
  KVASIR_TRY_STATUS(read_input(body, options, request));
  KVASIR_TRY_STATUS(read_response_tool_choice(body, request));
  KVASIR_TRY_STATUS(read_text_format(body, request));
  KVASIR_TRY_STATUS(read_include(body, options.limits, request));
  KVASIR_TRY(const std::optional<int64_t> max_tokens, body.integer("max_output_tokens", 1, INT64_MAX));
  request.max_tokens = max_tokens.value_or(0);
  if (request.session_id.empty()) {
    KVASIR_TRY(request.session_id, body.text("prompt_cache_key"));
  }
  return settle_request(options, request);
}

}  // namespace

Result<ChatRequest> parse_responses(std::string_view text, const ApiOptions& options) {
  return read_request(text, Dialect::kResponses, options, read_fields);
}

}  // namespace kvasir
