// The neutral form of a conversation: what every API adapter produces and the chat template renders.
//
// Nothing here depends on which API a message came by. Content is already one text: the adapter joined the
// parts (ENC-4), so a string and a list with one text part cannot differ any more. Source: protocol.md 2, 4.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/json_value.h"

namespace kvasir {

enum class Role { kSystem, kDeveloper, kUser, kAssistant, kTool, kLatestReminder };

// Quick-instruction tasks of the vendor's own app: the message is followed by a task token.
enum class MessageTask { kNone, kAction, kQuery, kAuthority, kDomain, kTitle, kReadUrl };

// A call in an assistant message.
struct ToolCall {
  std::string id;  // empty: the client gave none
  std::string name;
  // As received: an object, the JSON text of one in a string, or null. Anything else is legal too and
  // becomes one parameter `arguments` (ENC-7).
  JsonValue arguments;
};

struct Message {
  Role role = Role::kUser;
  std::string content = {};
  std::optional<std::string> reasoning = {};      // assistant
  std::vector<ToolCall> tool_calls = {};          // assistant
  std::string tool_call_id = {};                  // tool: the call that it answers
  std::vector<JsonValue> tools = {};              // system, developer: function objects, offered from here on
  std::optional<JsonValue> response_format = {};  // system, developer: JSON schema of the reply
  MessageTask task = MessageTask::kNone;          // user, developer, assistant
  // Assistant: the model continues this text, so no end token follows (prefix completion, `wo_eos`).
  bool open_ended = false;
};

// Only kNone changes a prompt (ENC-2). Required and named choices constrain sampling; here they are kAuto.
enum class ToolChoice { kAuto, kNone };

struct Conversation {
  std::vector<Message> messages;
  std::vector<JsonValue> tools;  // function objects as received: {"name", "description", "parameters", ...}
  ToolChoice tool_choice = ToolChoice::kAuto;
  std::optional<JsonValue> response_format;  // JSON schema of the reply
};

}  // namespace kvasir
