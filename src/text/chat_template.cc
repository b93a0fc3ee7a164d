// The encoder proper. A message list is first folded into turns (tool results join user messages), then each
// turn is written, then the transition to the next one. Texts written by us go through PromptWriter::ours,
// texts of clients through PromptWriter::client, which records them as protected.
#include "text/chat_template.h"

#include <algorithm>
#include <tuple>
#include <unordered_map>

#include "base/check.h"
#include "text/chat_template_text.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

class PromptWriter {
 public:
  void ours(std::string_view text) { prompt_.text += text; }
  void client(std::string_view text) {
    if (text.empty()) return;
    prompt_.protected_ranges.push_back({prompt_.text.size(), prompt_.text.size() + text.size()});
    prompt_.text += text;
  }
  RenderedPrompt take() { return std::move(prompt_); }

 private:
  RenderedPrompt prompt_;
};

// One piece of a user turn.
struct Block {
  bool is_result = false;
  std::string_view text;
  std::string_view call_id;  // of a result
};

// A message as the encoder sees it: user and tool messages have become blocks. Borrows from the messages.
struct Turn {
  const Message* message = nullptr;  // of a user turn: its first message
  Role role = Role::kUser;           // never kTool
  MessageTask task = MessageTask::kNone;
  std::vector<Block> blocks = {};  // user
};

bool is_user_side(const Turn& turn) { return turn.role == Role::kUser || turn.role == Role::kDeveloper; }

// Step 1 of protocol.md 2.3. A user message that carries a task takes no further user text, so that its task
// token stays at the end; results still join it.
std::vector<Turn> merge(std::span<const Message> messages) {
  std::vector<Turn> turns;
  for (const Message& m : messages) {
    const bool is_result = m.role == Role::kTool;
    if (!is_result && m.role != Role::kUser) {
      turns.push_back({.message = &m, .role = m.role, .task = m.task});
      continue;
    }
    const bool joins = !turns.empty() && turns.back().role == Role::kUser &&
                       (is_result || turns.back().task == MessageTask::kNone);
    if (!joins) turns.push_back({.message = &m, .role = Role::kUser, .task = MessageTask::kNone});
    turns.back().blocks.push_back({is_result, m.content, m.tool_call_id});
    if (m.task != MessageTask::kNone) turns.back().task = m.task;
  }
  return turns;
}

// Step 2: results of one turn follow the order of the calls, in the places that results have.
void sort_results(std::vector<Turn>& turns) {
  std::unordered_map<std::string_view, size_t> call_place;
  for (Turn& turn : turns) {
    if (turn.role == Role::kAssistant && !turn.message->tool_calls.empty()) {
      call_place.clear();
      for (size_t i = 0; i < turn.message->tool_calls.size(); ++i) {
        const std::string& id = turn.message->tool_calls[i].id;
        if (!id.empty()) call_place[id] = i;
      }
    }
    if (call_place.empty()) continue;
    std::vector<std::tuple<size_t, size_t, Block>> results;  // place of its call, place in the turn
    for (size_t i = 0; i < turn.blocks.size(); ++i) {
      if (!turn.blocks[i].is_result) continue;
      const auto found = call_place.find(turn.blocks[i].call_id);
      results.emplace_back(found == call_place.end() ? 0 : found->second, i, turn.blocks[i]);
    }
    std::sort(results.begin(), results.end(), [](const auto& a, const auto& b) {
      return std::tie(std::get<0>(a), std::get<1>(a)) < std::tie(std::get<0>(b), std::get<1>(b));
    });
    auto next = results.begin();
    for (Block& block : turn.blocks) {
      if (block.is_result) block = std::get<Block>(*next++);
    }
  }
}

// Number of turns before the last user or developer turn; 0 when there is none.
size_t turns_before_last_user(const std::vector<Turn>& turns) {
  for (size_t i = turns.size(); i-- > 0;) {
    if (is_user_side(turns[i])) return i;
  }
  return 0;
}

void write_tools(PromptWriter& out, const std::vector<JsonValue>& tools) {
  out.ours(kToolsBefore);
  std::string_view separator;
  for (const JsonValue& tool : tools) {
    out.ours(separator);
    out.client(tool.dump());
    separator = "\n";
  }
  out.ours(kToolsAfter);
}

// Empty schemas count as none, as they do in the reference.
bool has_format(const Message& m) {
  return m.response_format && !m.response_format->is_null() &&
         !(m.response_format->is_object() && m.response_format->as_object().empty());
}

// Content, tools and response format of a system or developer message.
void write_instructions(PromptWriter& out, const Message& m) {
  out.client(m.content);
  if (!m.tools.empty()) {
    out.ours("\n\n");
    write_tools(out, m.tools);
  }
  if (has_format(m)) {
    out.ours("\n\n");
    out.ours(kResponseFormatBefore);
    out.client(m.response_format->dump());
  }
}

void write_blocks(PromptWriter& out, const std::vector<Block>& blocks) {
  std::string_view separator;
  for (const Block& block : blocks) {
    out.ours(separator);
    if (block.is_result) out.ours("<tool_result>");
    out.client(block.text);
    if (block.is_result) out.ours("</tool_result>");
    separator = "\n\n";
  }
}

void write_call(PromptWriter& out, const ToolCall& call) {
  out.ours("<｜DSML｜invoke name=\"");
  out.client(call.name);
  out.ours("\">\n");
  std::string_view separator;
  for (const auto& [key, value] : call_parameters(call.arguments)) {
    out.ours(separator);
    out.ours("<｜DSML｜parameter name=\"");
    out.client(key);
    out.ours(value.is_string() ? "\" string=\"true\">" : "\" string=\"false\">");
    out.client(value.is_string() ? value.as_string() : value.dump());
    out.ours("</｜DSML｜parameter>");
    separator = "\n";
  }
  out.ours("\n</｜DSML｜invoke>\n");
}

// Content, tool block and end token of an assistant message.
void write_answer(PromptWriter& out, const Message& m) {
  out.client(m.content);
  if (!m.tool_calls.empty()) {
    out.ours("\n\n<｜DSML｜tool_calls>\n");
    for (const ToolCall& call : m.tool_calls) write_call(out, call);
    out.ours("</｜DSML｜tool_calls>");
  }
  if (!m.open_ended) out.ours(kEosText);
}

void write_reasoning(PromptWriter& out, const Message& m) {
  if (m.reasoning) out.client(*m.reasoning);
  out.ours(kEndThinkText);
}

std::string_view effort_text(const RenderOptions& options) {
  if (options.thinking == Thinking::kOff) return {};
  const bool a = options.revision == TemplateRevision::kA;
  switch (options.effort) {
    case Effort::kNone:
    case Effort::kLow:
      return {};
    case Effort::kHigh:
      return a ? std::string_view() : kEffortText1;
    case Effort::kMax:
      return a ? kEffortText1 : kEffortText2;
  }
  return {};
}

std::string_view task_text(MessageTask task) {
  switch (task) {
    case MessageTask::kNone:
      return {};
    case MessageTask::kAction:
      return "<｜action｜>";
    case MessageTask::kQuery:
      return "<｜query｜>";
    case MessageTask::kAuthority:
      return "<｜authority｜>";
    case MessageTask::kDomain:
      return "<｜domain｜>";
    case MessageTask::kTitle:
      return "<｜title｜>";
    case MessageTask::kReadUrl:
      return "<｜read_url｜>";
  }
  return {};
}

// Writes a list of turns; holds what every turn needs to know about the whole.
class Encoder {
 public:
  Encoder(std::vector<Turn> turns, const RenderOptions& options)
      : turns_(std::move(turns)), options_(options) {
    thinks_ = options.thinking == Thinking::kOn;
    // A user message's tools mean nothing to the encoder: only its text survives the merge.
    drops_ = options.drop_thinking && std::none_of(turns_.begin(), turns_.end(), [](const Turn& t) {
               return t.role != Role::kUser && !t.message->tools.empty();
             });
    if (thinks_ && drops_) drop_developers_before_last_user();
    history_ = turns_before_last_user(turns_);
  }

  Result<RenderedPrompt> encode() {
    out_.ours(kBosText);
    for (size_t i = 0; i < turns_.size(); ++i) {
      if (i == 0) out_.ours(effort_text(options_));
      KVASIR_TRY_STATUS(write_turn(i));
      write_transition(i);
    }
    RenderedPrompt prompt = out_.take();
    prompt.in_reasoning = ends_in_reasoning_;
    return prompt;
  }

 private:
  // Step 4 of protocol.md 2.3; which assistant turns lose their reasoning follows from history_.
  void drop_developers_before_last_user() {
    const size_t history = turns_before_last_user(turns_);
    std::vector<Turn> kept;
    for (size_t i = 0; i < turns_.size(); ++i) {
      if (i >= history || turns_[i].role != Role::kDeveloper) kept.push_back(std::move(turns_[i]));
    }
    turns_ = std::move(kept);
  }

  Status write_turn(size_t i) {
    const Message& m = *turns_[i].message;
    switch (turns_[i].role) {
      case Role::kSystem:
        write_instructions(out_, m);
        return {};
      case Role::kDeveloper:
        if (m.content.empty())
          return Error{ErrorCode::kInvalid, "a developer message needs content, saw none"};
        out_.ours(kUserText);
        write_instructions(out_, m);
        return {};
      case Role::kUser:
        out_.ours(kUserText);
        write_blocks(out_, turns_[i].blocks);
        return {};
      case Role::kLatestReminder:
        out_.ours(kLatestReminderText);
        out_.client(m.content);
        return {};
      case Role::kAssistant: {
        // After a task token the message is the task's result, which has no reasoning.
        const bool follows_task = i > 0 && turns_[i - 1].task != MessageTask::kNone;
        if (thinks_ && !follows_task && (!drops_ || i >= history_)) write_reasoning(out_, m);
        write_answer(out_, m);
        return {};
      }
      case Role::kTool:
        break;
    }
    KVASIR_CHECK(false, "turn {} has role {}", i, static_cast<int>(turns_[i].role));
    return {};
  }

  void write_transition(size_t i) {
    ends_in_reasoning_ = false;
    const bool is_last = i + 1 == turns_.size();
    if (!is_last && turns_[i + 1].role != Role::kAssistant && turns_[i + 1].role != Role::kLatestReminder)
      return;
    const Turn& turn = turns_[i];
    if (turn.task != MessageTask::kNone) {
      if (turn.task == MessageTask::kAction) {
        out_.ours(kAssistantText);
        out_.ours(thinks_ ? kThinkText : kEndThinkText);
      }
      out_.ours(task_text(turn.task));
    } else if (is_user_side(turn)) {
      const bool reasons = thinks_ && (!drops_ || i >= history_);
      out_.ours(kAssistantText);
      out_.ours(reasons ? kThinkText : kEndThinkText);
      ends_in_reasoning_ = reasons;
    }
  }

  std::vector<Turn> turns_;
  const RenderOptions& options_;
  bool thinks_;
  bool drops_;
  size_t history_;  // turns before the last user or developer turn: they lose their reasoning if drops_
  bool ends_in_reasoning_ = false;
  PromptWriter out_;
};

// The list gives the model nothing to answer: it ends with what the model said, or with system text only.
bool needs_fresh_turn(std::span<const Message> messages) {
  const Message& last = messages.back();
  if (last.task != MessageTask::kNone) return false;
  return last.role == Role::kSystem || (last.role == Role::kAssistant && !last.open_ended);
}

}  // namespace

JsonValue::Object call_parameters(const JsonValue& arguments) {
  if (arguments.is_object()) return arguments.as_object();
  if (arguments.is_null()) return {};
  if (!arguments.is_string()) return {{"arguments", JsonValue(arguments.dump())}};
  auto parsed = JsonValue::parse(arguments.as_string());
  if (parsed && parsed->is_object()) return std::move(parsed->as_object());
  if (parsed && parsed->is_null()) return {};
  return {{"arguments", arguments}};
}

Result<RenderedPrompt> render_messages(std::span<const Message> messages, const RenderOptions& options) {
  if (messages.empty()) return Error{ErrorCode::kInvalid, "no messages: expected at least one"};
  std::vector<Turn> turns = merge(messages);
  sort_results(turns);
  return Encoder(std::move(turns), options).encode();
}

Result<RenderedPrompt> render_chat(const Conversation& conversation, const RenderOptions& options) {
  if (conversation.messages.empty()) return Error{ErrorCode::kInvalid, "no messages: expected at least one"};
  const std::vector<Message> messages = prepare_messages(conversation);
  KVASIR_TRY(RenderedPrompt prompt, render_messages(messages, options));
  if (needs_fresh_turn(messages)) {
    prompt.in_reasoning = options.thinking == Thinking::kOn;
    prompt.text += kAssistantText;
    prompt.text += prompt.in_reasoning ? kThinkText : kEndThinkText;
  }
  return prompt;
}

RenderedPrompt render_completion(const Message& assistant, Thinking thinking) {
  PromptWriter out;
  if (thinking == Thinking::kOn) write_reasoning(out, assistant);
  write_answer(out, assistant);
  return out.take();
}

}  // namespace kvasir
