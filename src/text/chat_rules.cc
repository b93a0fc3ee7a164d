// prepare_messages(): our server's rules on top of the published encoder. Each rule is named where it is
// applied; protocol.md section 4 says why each exists.
#include <iterator>
#include <utility>

#include "text/chat_template.h"

namespace kvasir {
namespace {

void append_paragraph(std::string& text, std::string_view paragraph) {
  if (paragraph.empty()) return;
  if (!text.empty()) text += "\n\n";
  text += paragraph;
}

void append_tools(std::vector<JsonValue>& tools, std::vector<JsonValue> more) {
  tools.insert(tools.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

// SYS-1. `system` takes the text and the offers of `m`.
void fold_leading(Message& system, Message m) {
  append_paragraph(system.content, m.content);
  append_tools(system.tools, std::move(m.tools));
  if (m.response_format) system.response_format = std::move(m.response_format);
}

// SYS-2. A user message right before takes the text even if it has a task, which then still comes last.
void place_reminder(std::vector<Message>& out, std::string_view text) {
  const std::string reminder = "<system-reminder>\n" + std::string(text) + "\n</system-reminder>";
  if (!out.empty() && out.back().role == Role::kUser) {
    out.back().content += "\n\n" + reminder;
  } else {
    out.push_back({.role = Role::kUser, .content = reminder});
  }
}

// ENC-7: the reference renders an empty text as a parameter `arguments`, which would teach the model to
// write one.
void drop_empty_arguments(Message& m) {
  for (ToolCall& call : m.tool_calls) {
    if (call.arguments.is_string() && call.arguments.as_string().empty()) call.arguments = JsonValue();
  }
}

}  // namespace

std::vector<Message> prepare_messages(const Conversation& conversation) {
  std::vector<Message> out;
  Message system{.role = Role::kSystem};
  bool has_system = false;
  bool leading = true;
  for (Message m : conversation.messages) {
    leading = leading && m.role == Role::kSystem;
    if (leading) {
      has_system = true;
      fold_leading(system, std::move(m));
    } else if (m.role == Role::kSystem) {
      append_tools(system.tools, std::move(m.tools));
      place_reminder(out, m.content);
    } else {
      drop_empty_arguments(m);
      m.open_ended = false;
      out.push_back(std::move(m));
    }
  }
  if (!out.empty()) out.back().open_ended = conversation.messages.back().open_ended;  // ENC-8

  append_tools(system.tools, conversation.tools);  // ENC-1
  if (conversation.response_format) system.response_format = conversation.response_format;
  if (conversation.tool_choice == ToolChoice::kNone) {  // ENC-2
    system.tools.clear();
    for (Message& m : out) m.tools.clear();
  }
  if (has_system || !system.tools.empty() || system.response_format) {
    out.insert(out.begin(), std::move(system));
  }
  return out;
}

}  // namespace kvasir
