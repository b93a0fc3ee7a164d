// One function per shape, each with the JSON path of what it reads, so that an error can name the place.
#include "text/chat_json.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace kvasir {
namespace {

constexpr std::array<std::pair<std::string_view, Role>, 6> kRoles = {
    {{"system", Role::kSystem},
     {"developer", Role::kDeveloper},
     {"user", Role::kUser},
     {"assistant", Role::kAssistant},
     {"tool", Role::kTool},
     {"latest_reminder", Role::kLatestReminder}}};

constexpr std::array<std::pair<std::string_view, MessageTask>, 6> kTasks = {
    {{"action", MessageTask::kAction},
     {"query", MessageTask::kQuery},
     {"authority", MessageTask::kAuthority},
     {"domain", MessageTask::kDomain},
     {"title", MessageTask::kTitle},
     {"read_url", MessageTask::kReadUrl}}};

// What was seen, short enough for a message.
std::string describe(const JsonValue* value) {
  if (value == nullptr) return "nothing";
  if (value->is_string() && value->as_string().size() <= 40) return value->dump();
  return std::string(json_kind_name(value->kind()));
}

Error wrong(const std::string& path, std::string_view expected, const JsonValue* seen) {
  return Error{ErrorCode::kInvalid, fmt::format("{}: expected {}, saw {}", path, expected, describe(seen))};
}

// An absent key and a null are the same to every client we know.
const JsonValue* find_present(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

template <class T, size_t n>
Result<T> named(const std::array<std::pair<std::string_view, T>, n>& names, const JsonValue* value,
                const std::string& path) {
  std::string expected = "one of";
  for (const auto& [name, meaning] : names) {
    if (value != nullptr && value->is_string() && value->as_string() == name) return meaning;
    expected += expected.back() == 'f' ? " " : ", ";
    expected += name;
  }
  return wrong(path, expected, value);
}

Result<std::string> read_text(const JsonValue& object, std::string_view key, const std::string& path) {
  const JsonValue* value = find_present(object, key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return wrong(fmt::format("{}.{}", path, key), "a string", value);
  return value->as_string();
}

Result<bool> read_flag(const JsonValue& object, std::string_view key, const std::string& path) {
  const JsonValue* value = find_present(object, key);
  if (value == nullptr) return false;
  if (!value->is_bool()) return wrong(fmt::format("{}.{}", path, key), "true or false", value);
  return value->as_bool();
}

Result<std::string> read_part(const JsonValue& part, OtherParts other_parts, const std::string& path) {
  const JsonValue* type = part.find("type");
  if (type == nullptr || !type->is_string()) return wrong(path, "an object with a \"type\"", &part);
  if (type->as_string() == "text") return read_text(part, "text", path);
  if (other_parts == OtherParts::kPlaceholder) return "[Unsupported " + type->as_string() + "]";
  return Error{
      ErrorCode::kUnsupported,
      fmt::format("{}: parts of type {} are not supported, expected \"text\"", path, describe(type))};
}

// A string, or parts joined by an empty line (ENC-4).
Result<std::string> read_content(const JsonValue& message, OtherParts other_parts, const std::string& path) {
  const JsonValue* content = find_present(message, "content");
  if (content == nullptr) return std::string();
  if (content->is_string()) return content->as_string();
  const std::string here = path + ".content";
  if (!content->is_array()) return wrong(here, "a string or an array of parts", content);
  std::string text;
  for (size_t i = 0; i < content->as_array().size(); ++i) {
    KVASIR_TRY(const std::string part,
               read_part(content->as_array()[i], other_parts, fmt::format("{}[{}]", here, i)));
    if (i > 0) text += "\n\n";
    text += part;
  }
  return text;
}

Result<std::vector<JsonValue>> read_tools(const JsonValue& owner, const std::string& path) {
  std::vector<JsonValue> tools;
  const JsonValue* list = find_present(owner, "tools");
  if (list == nullptr) return tools;
  if (!list->is_array()) return wrong(path, "an array of tools", list);
  for (size_t i = 0; i < list->as_array().size(); ++i) {
    const JsonValue* function = list->as_array()[i].find("function");
    const JsonValue* name = function == nullptr ? nullptr : function->find("name");
    if (name == nullptr || !name->is_string()) {
      return wrong(fmt::format("{}[{}]", path, i), "an object with a \"function\" that has a \"name\"",
                   &list->as_array()[i]);
    }
    tools.push_back(*function);
  }
  return tools;
}

Result<ToolCall> read_call(const JsonValue& json, const std::string& path) {
  const JsonValue* function = json.find("function");
  if (function == nullptr || !function->is_object())
    return wrong(path, "an object with a \"function\"", &json);
  const JsonValue* name = function->find("name");
  if (name == nullptr || !name->is_string()) return wrong(path + ".function.name", "a string", name);
  ToolCall call;
  KVASIR_TRY(call.id, read_text(json, "id", path));
  call.name = name->as_string();
  if (const JsonValue* arguments = function->find("arguments")) call.arguments = *arguments;
  return call;
}

Result<std::vector<ToolCall>> read_calls(const JsonValue& message, const std::string& path) {
  std::vector<ToolCall> calls;
  const JsonValue* list = find_present(message, "tool_calls");
  if (list == nullptr) return calls;
  if (!list->is_array()) return wrong(path + ".tool_calls", "an array", list);
  for (size_t i = 0; i < list->as_array().size(); ++i) {
    KVASIR_TRY(ToolCall call, read_call(list->as_array()[i], fmt::format("{}.tool_calls[{}]", path, i)));
    calls.push_back(std::move(call));
  }
  return calls;
}

Status read_assistant(const JsonValue& json, const std::string& path, Message& m) {
  for (std::string_view key : {"reasoning_content", "reasoning"}) {
    if (m.reasoning || find_present(json, key) == nullptr) continue;
    KVASIR_TRY(std::string reasoning, read_text(json, key, path));
    m.reasoning = std::move(reasoning);
  }
  KVASIR_TRY(m.tool_calls, read_calls(json, path));
  KVASIR_TRY(const bool prefix, read_flag(json, "prefix", path));
  KVASIR_TRY(const bool wo_eos, read_flag(json, "wo_eos", path));
  m.open_ended = prefix || wo_eos;
  return {};
}

Result<Message> read_message(const JsonValue& json, OtherParts other_parts, const std::string& path) {
  if (!json.is_object()) return wrong(path, "a message object", &json);
  Message m;
  KVASIR_TRY(m.role, named(kRoles, json.find("role"), path + ".role"));
  KVASIR_TRY(m.content, read_content(json, other_parts, path));
  if (m.role == Role::kAssistant) KVASIR_TRY_STATUS(read_assistant(json, path, m));
  if (m.role == Role::kTool) {
    KVASIR_TRY(m.tool_call_id, read_text(json, "tool_call_id", path));
  }
  if (m.role == Role::kSystem || m.role == Role::kDeveloper) {
    KVASIR_TRY(m.tools, read_tools(json, path + ".tools"));
    if (const JsonValue* format = find_present(json, "response_format")) m.response_format = *format;
  }
  const JsonValue* task = find_present(json, "task");
  if (task != nullptr &&
      (m.role == Role::kUser || m.role == Role::kDeveloper || m.role == Role::kAssistant)) {
    KVASIR_TRY(m.task, named(kTasks, task, path + ".task"));
  }
  return m;
}

}  // namespace

Result<Conversation> conversation_from_json(const JsonValue& json, OtherParts other_parts) {
  const JsonValue* messages = json.is_array() ? &json : json.find("messages");
  if (messages == nullptr || !messages->is_array()) {
    return wrong("conversation", "an array of messages or an object with \"messages\"", messages);
  }
  Conversation conversation;
  for (size_t i = 0; i < messages->as_array().size(); ++i) {
    KVASIR_TRY(Message m, read_message(messages->as_array()[i], other_parts, fmt::format("messages[{}]", i)));
    conversation.messages.push_back(std::move(m));
  }
  KVASIR_TRY(conversation.tools, read_tools(json, "tools"));
  const JsonValue* choice = json.find("tool_choice");
  if (choice != nullptr && choice->is_string() && choice->as_string() == "none") {
    conversation.tool_choice = ToolChoice::kNone;
  }
  return conversation;
}

}  // namespace kvasir
