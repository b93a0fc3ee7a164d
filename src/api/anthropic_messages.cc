// A message of this API is a list of blocks; the neutral list has one message per tool result and one per run
// of texts, which the template joins again.
#include "api/anthropic_messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "api/json_fields.h"
#include "api/request_rules.h"
#include "base/json_writer.h"

namespace kvasir {
namespace {

constexpr std::array<std::string_view, 1> kText = {"text"};
constexpr std::string_view kBillingHeader = "x-anthropic-billing-header:";

// SYS-1, ANT-1. The line changes with every conversation, in some versions with every request, and would
// spoil each shared prefix. It is a block of its own, or the first line of a string.
std::string_view without_billing_line(std::string_view text) {
  if (!text.starts_with(kBillingHeader)) return text;
  const size_t end = text.find('\n');
  if (end == std::string_view::npos) return {};
  text.remove_prefix(end);
  text.remove_prefix(std::min(text.find_first_not_of("\r\n"), text.size()));
  return text;
}

Status read_system(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  const JsonValue* system = body.find("system");
  if (system == nullptr) return {};
  std::string text;
  if (system->is_string()) {
    text = without_billing_line(system->as_string());
  } else if (system->is_array()) {
    for (size_t i = 0; i < system->as_array().size(); ++i) {
      const JsonValue one(JsonValue::Array{system->as_array()[i]});
      KVASIR_TRY(const std::string block,
                 read_text_parts(&one, kText, options, fmt::format("system[{}]", i)));
      if (!block.starts_with(kBillingHeader)) append_paragraph(text, block);
    }
  } else {
    return body.wrong("system", "a string or an array of text blocks");
  }
  if (!text.empty())
    request.conversation.messages.push_back({.role = Role::kSystem, .content = std::move(text)});
  return {};
}

// Blocks of a user message, in order.
Status read_user(const JsonValue& content, const ApiOptions& options, const std::string& path,
                 ChatRequest& request) {
  std::vector<Message>& messages = request.conversation.messages;
  bool open = false;  // the last message takes more text
  const auto add_text = [&](std::string text) {
    if (open) {
      messages.back().content += "\n\n" + text;
    } else {
      messages.push_back({.role = Role::kUser, .content = std::move(text)});
    }
    open = true;
  };
  for (size_t i = 0; i < content.as_array().size(); ++i) {
    const JsonValue& block = content.as_array()[i];
    const std::string here = fmt::format("{}[{}]", path, i);
    const JsonFields fields(block, here);
    KVASIR_TRY_STATUS(fields.check_object());
    KVASIR_TRY(const std::string type, fields.required_text("type"));
    if (type == "text") {
      KVASIR_TRY(std::string text, fields.text("text"));
      add_text(std::move(text));
    } else if (type == "tool_result") {
      Message result{.role = Role::kTool};
      KVASIR_TRY(result.tool_call_id, fields.required_text("tool_use_id"));
      KVASIR_TRY(result.content, read_text_parts(fields.find("content"), kText, options, here + ".content"));
      messages.push_back(std::move(result));
      open = false;
    } else {
      KVASIR_TRY(std::string text, read_other_part(block, options, here));
      add_text(std::move(text));
    }
  }
  return {};
}

// Blocks that are not of this conversation (redacted thinking, server tools and their results) are skipped.
Status read_assistant(const JsonValue& content, const std::string& path, ChatRequest& request) {
  Message m{.role = Role::kAssistant};
  bool has_text = false;
  for (size_t i = 0; i < content.as_array().size(); ++i) {
    const JsonFields fields(content.as_array()[i], fmt::format("{}[{}]", path, i));
    KVASIR_TRY_STATUS(fields.check_object());
    KVASIR_TRY(const std::string type, fields.required_text("type"));
    if (type == "text") {
      KVASIR_TRY(const std::string text, fields.text("text"));
      if (has_text) m.content += "\n\n";
      m.content += text;
      has_text = true;
    } else if (type == "thinking") {  // ENC-6: the signature is not looked at
      KVASIR_TRY(const std::string text, fields.text("thinking"));
      m.reasoning = m.reasoning.value_or("") + text;
    } else if (type == "tool_use") {
      ToolCall call;
      KVASIR_TRY(call.id, fields.required_text("id"));
      KVASIR_TRY(call.name, fields.required_text("name"));
      if (const JsonValue* input = fields.find("input")) call.arguments = *input;
      m.tool_calls.push_back(std::move(call));
    }
  }
  request.conversation.messages.push_back(std::move(m));
  return {};
}

Status read_message(const JsonValue& json, const ApiOptions& options, const std::string& path,
                    ChatRequest& request) {
  const JsonFields fields(json, path);
  KVASIR_TRY_STATUS(fields.check_object());
  KVASIR_TRY(const std::string role, fields.text("role"));
  const JsonValue* content = fields.find("content");
  if (content == nullptr || !(content->is_string() || content->is_array())) {
    return fields.wrong("content", "a string or an array of blocks");
  }
  const std::string here = path + ".content";
  if (role == "system") {  // SYS-2
    KVASIR_TRY(std::string text, read_text_parts(content, kText, options, here));
    request.conversation.messages.push_back({.role = Role::kSystem, .content = std::move(text)});
    return {};
  }
  if (role != "user" && role != "assistant")
    return fields.wrong("role", "\"user\", \"assistant\" or \"system\"");
  if (content->is_string()) {
    const Role neutral = role == "user" ? Role::kUser : Role::kAssistant;
    request.conversation.messages.push_back({.role = neutral, .content = content->as_string()});
    return {};
  }
  return role == "user" ? read_user(*content, options, here, request)
                        : read_assistant(*content, here, request);
}

Status read_messages(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY(const JsonValue::Array* list, body.array("messages"));
  if (list == nullptr || list->empty()) return body.wrong("messages", "an array of at least one message");
  if (list->size() > options.limits.messages) {
    return Error{ErrorCode::kInvalid,
                 fmt::format("messages: expected at most {}, saw {}", options.limits.messages, list->size())};
  }
  for (size_t i = 0; i < list->size(); ++i) {
    KVASIR_TRY_STATUS(read_message((*list)[i], options, fmt::format("messages[{}]", i), request));
  }
  if (request.conversation.messages.empty()) return body.wrong("messages", "at least one block of content");
  // ENC-8: an unfinished answer is continued; calls without results are not unfinished.
  Message& last = request.conversation.messages.back();
  last.open_ended = last.role == Role::kAssistant && last.tool_calls.empty();
  return {};
}

// ANT-2: server tools have a type of their own and are skipped.
Status read_tools(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY(const JsonValue::Array* tools, read_tool_list(body, options.limits));
  if (tools == nullptr) return {};
  for (size_t i = 0; i < tools->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    const JsonFields fields((*tools)[i], path);
    KVASIR_TRY_STATUS(fields.check_object());
    KVASIR_TRY(const std::string type, fields.text("type"));
    if (!type.empty() && type != "custom") continue;
    KVASIR_TRY(const std::string name, fields.required_text("name"));
    KVASIR_TRY(const bool strict, fields.flag("strict", false));
    KVASIR_TRY_STATUS(add_tool(function_object(name, fields.find("description"), fields.find("input_schema")),
                               {.prompt_name = name, .name = name, .strict = strict}, path, request));
  }
  return {};
}

Status read_tool_choice(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* choice, body.object("tool_choice"));
  if (choice == nullptr) return {};
  const JsonFields fields(*choice, "tool_choice");
  KVASIR_TRY(const std::string type, fields.text("type"));
  if (type == "tool") {
    KVASIR_TRY(const std::string name, fields.required_text("name"));
    return force_tool(name, "tool_choice.name", request);
  }
  if (type != "auto" && type != "any" && type != "none") {
    return fields.wrong("type", "\"auto\", \"any\", \"tool\" or \"none\"");
  }
  request.tool_use = type == "auto" ? ToolUse::kAuto : type == "any" ? ToolUse::kRequired : ToolUse::kNone;
  return {};
}

// output_config: the effort, and the format of the reply.
Status read_output_config(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  ThinkingAsked asked{.effort_path = "output_config.effort"};
  KVASIR_TRY(asked.enabled, read_thinking_type(body));
  KVASIR_TRY(const JsonValue* config, body.object("output_config"));
  if (config != nullptr) {
    const JsonFields fields(*config, "output_config");
    KVASIR_TRY(std::string effort, fields.text("effort"));
    if (!effort.empty()) asked.effort = std::move(effort);
    KVASIR_TRY(const JsonValue* format, fields.object("format"));
    if (format != nullptr) {
      const JsonFields inner(*format, "output_config.format");
      KVASIR_TRY(const std::string type, inner.text("type"));
      if (type != "json_schema") return inner.wrong("type", "\"json_schema\"");
      KVASIR_TRY(const JsonValue* schema, inner.object("schema"));
      if (schema == nullptr) return inner.wrong("schema", "a JSON schema object");
      request.reply_format = {.kind = ReplyFormat::Kind::kJsonSchema, .schema = *schema, .strict = true};
    }
  }
  return settle_thinking(asked, options, request);
}

Status read_user_id(const JsonFields& body, ChatRequest& request) {
  KVASIR_TRY(const JsonValue* metadata, body.object("metadata"));
  if (metadata == nullptr) return {};
  KVASIR_TRY(request.user_id, JsonFields(*metadata, "metadata").text("user_id"));
  return {};
}

Status read_fields(const JsonFields& body, const ApiOptions& options, ChatRequest& request) {
  KVASIR_TRY_STATUS(read_output_config(body, options, request));
  KVASIR_TRY_STATUS(read_system(body, options, request));
  KVASIR_TRY_STATUS(read_messages(body, options, request));
  KVASIR_TRY_STATUS(read_tools(body, options, request));
  KVASIR_TRY_STATUS(read_tool_choice(body, request));
  KVASIR_TRY_STATUS(read_stop(body, "stop_sequences", options.limits, request));
  KVASIR_TRY(const std::optional<int64_t> max_tokens, body.integer("max_tokens", 1, INT64_MAX));
  request.max_tokens = max_tokens.value_or(0);
  KVASIR_TRY_STATUS(read_user_id(body, request));
  return settle_request(options, request);
}

}  // namespace

Result<ChatRequest> parse_messages(std::string_view text, const ApiOptions& options) {
  return read_request(text, Dialect::kMessages, options, read_fields);
}

std::string token_count_body(int64_t tokens) {
  JsonWriter json;
  json.begin_object().field("input_tokens", tokens).end_object();
  return json.text();
}

}  // namespace kvasir
