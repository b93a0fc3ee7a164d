// Fuzzes the way from a client's bytes to a prompt: JSON, messages, both revisions of the template.
//
// The first byte picks the options; the rest is the request. Checked beyond "does not crash": JSON prints and
// reads back the same, protected ranges are in order, and the structure outside them is what the messages ask
// for and nothing a client wrote.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/chat_json.h"
#include "text/chat_template.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = 0; (at = text.find(what, at)) != std::string_view::npos; at += what.size()) ++n;
  return n;
}

// The prompt with a zero byte for each client text.
std::string trusted_text(const RenderedPrompt& prompt) {
  std::string out;
  size_t at = 0;
  for (const ByteRange& range : prompt.protected_ranges) {
    KVASIR_CHECK(at <= range.begin && range.begin < range.end && range.end <= prompt.text.size(),
                 "range {}-{} after {} of {}", range.begin, range.end, at, prompt.text.size());
    out += prompt.text.substr(at, range.begin - at) + '\0';
    at = range.end;
  }
  return out + prompt.text.substr(at);
}

void check_prompt(const std::vector<Message>& messages, const RenderedPrompt& prompt, size_t extra_turns) {
  const std::string ours = trusted_text(prompt);
  size_t results = 0, ends = 0, reminders = 0;
  for (const Message& m : messages) {
    results += m.role == Role::kTool;
    ends += m.role == Role::kAssistant && !m.open_ended;
    reminders += m.role == Role::kLatestReminder;
  }
  KVASIR_CHECK(ours.starts_with(kBosText) && count(ours, kBosText) == 1, "BOS in {}", ours);
  KVASIR_CHECK(count(ours, kEosText) == ends, "{} ends in {}", ends, ours);
  KVASIR_CHECK(count(ours, "<tool_result>") == results && count(ours, "</tool_result>") == results,
               "{} results in {}", results, ours);
  KVASIR_CHECK(count(ours, kLatestReminderText) == reminders, "{} reminders in {}", reminders, ours);
  KVASIR_CHECK(count(ours, kAssistantText) <= messages.size() + extra_turns, "assistant turns in {}", ours);
  KVASIR_CHECK(!prompt.in_reasoning || ours.ends_with(kThinkText), "reasoning of {}", ours);
}

void run(uint8_t flags, std::string_view text) {
  auto json = JsonValue::parse(text);
  if (!json) return;
  const std::string printed = json->dump();
  auto again = JsonValue::parse(printed);
  KVASIR_CHECK(again && again->dump() == printed, "{} prints differently when read back", printed);

  const OtherParts parts = flags & 1 ? OtherParts::kReject : OtherParts::kPlaceholder;
  auto conversation = conversation_from_json(*json, parts);
  if (!conversation) return;
  RenderOptions options;
  options.thinking = flags & 2 ? Thinking::kOn : Thinking::kOff;
  options.effort = static_cast<Effort>(flags >> 2 & 3);
  options.drop_thinking = flags & 16;
  for (TemplateRevision revision : {TemplateRevision::kA, TemplateRevision::kB}) {
    options.revision = revision;
    if (auto prompt = render_messages(conversation->messages, options)) {
      check_prompt(conversation->messages, *prompt, 0);
    }
    if (auto prompt = render_chat(*conversation, options)) {
      const std::vector<Message> prepared = prepare_messages(*conversation);
      check_prompt(prepared, *prompt, 1);
    }
  }
  for (const Message& m : conversation->messages) {
    if (m.role == Role::kAssistant) trusted_text(render_completion(m, options.thinking));
  }
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) kvasir::run(data[0], std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
