// Where the text is cut, and what each cut is for:
//
//   <BOS>system, tools | <U>question<A> | <think> | reasoning</think>content, block | <EOS><U>result<A> | ..
//                      ^ system_tokens  ^ resume point  └─ replayed or encoded ─┘                  ^
//
// Only tokens that we wrote count: the same characters inside a client's text are protected and are no cut.
#include "api/prompt.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <unordered_set>

#include "base/json_writer.h"
#include "text/special_text.h"

namespace kvasir {
namespace {

constexpr std::string_view kFimBegin = "<｜fim▁begin｜>";
constexpr std::string_view kFimHole = "<｜fim▁hole｜>";
constexpr std::string_view kFimEnd = "<｜fim▁end｜>";

// ENC-9. A result whose call is not in the list must answer a call that the memory knows; the answer that
// made it is then put back where it was. Without anything before it the history would be lost, so that is
// refused (RPL-3).
Status restore_calls(std::vector<Message>& messages, const PromptOptions& options) {
  std::unordered_set<std::string> known;
  bool asked = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    asked = asked || messages[i].role == Role::kUser;
    for (const ToolCall& call : messages[i].tool_calls) known.insert(call.id);
    if (messages[i].role != Role::kTool || known.contains(messages[i].tool_call_id)) continue;
    const auto turn = options.memory == nullptr
                          ? nullptr
                          : options.memory->find_call(options.cache_namespace, messages[i].tool_call_id);
    if (turn == nullptr || !asked) {
      return Error{
          ErrorCode::kInvalid,
          fmt::format("the tool result for call {} answers no earlier call of the request; send the full "
                      "history",
                      json_quote(messages[i].tool_call_id))};
    }
    for (const ToolCall& call : turn->calls) known.insert(call.id);
    Message restored{.role = Role::kAssistant, .content = turn->content, .tool_calls = turn->calls};
    if (turn->in_reasoning) restored.reasoning = turn->reasoning;
    messages.insert(messages.begin() + static_cast<std::ptrdiff_t>(i), std::move(restored));
    ++i;
  }
  return {};
}

// THK-3 lenient: reasoning that the client left out comes back by the ids of its calls, even if the client
// edited the calls themselves.
int recover_reasoning(std::vector<Message>& messages, const PromptOptions& options) {
  int recovered = 0;
  if (options.memory == nullptr) return recovered;
  for (Message& m : messages) {
    if (m.role != Role::kAssistant || m.tool_calls.empty() || m.reasoning) continue;
    const auto turn = options.memory->find_call(options.cache_namespace, m.tool_calls[0].id);
    if (turn == nullptr || turn->reasoning.empty()) continue;
    m.reasoning = turn->reasoning;
    ++recovered;
  }
  return recovered;
}

// A structural token in the rendered text, outside of what clients wrote.
struct Mark {
  enum class Kind { kUser, kAssistant, kEos };
  Kind kind;
  size_t begin;
  size_t end;
};

std::vector<Mark> find_marks(const RenderedPrompt& prompt) {
  constexpr std::array<std::pair<std::string_view, Mark::Kind>, 3> kTokens = {
      {{kUserText, Mark::Kind::kUser},
       {kAssistantText, Mark::Kind::kAssistant},
       {kEosText, Mark::Kind::kEos}}};
  std::vector<Mark> marks;
  const std::string_view text = prompt.text;
  size_t at = 0;
  const auto scan_to = [&](size_t end) {
    const std::string_view ours = text.substr(0, end);
    for (at = ours.find("<｜", at); at != std::string_view::npos; at = ours.find("<｜", at + 1)) {
      for (const auto& [content, kind] : kTokens) {
        if (ours.substr(at, content.size()) == content) marks.push_back({kind, at, at + content.size()});
      }
    }
  };
  for (const ByteRange& range : prompt.protected_ranges) {
    scan_to(range.begin);
    at = range.end;
  }
  scan_to(text.size());
  return marks;
}

// Encodes the rendered text from left to right, piece by piece.
class PromptEncoder {
 public:
  PromptEncoder(const RenderedPrompt& rendered, const Tokenizer& tokenizer, const PromptOptions& options)
      : text_(rendered.text), ranges_(rendered.protected_ranges), tokenizer_(tokenizer), options_(options) {}

  void encode_to(size_t end) {
    if (end <= at_) return;
    std::vector<ByteRange> inside;
    for (; range_ < ranges_.size() && ranges_[range_].begin < end; ++range_) {
      if (ranges_[range_].end > at_)
        inside.push_back({ranges_[range_].begin - at_, ranges_[range_].end - at_});
    }
    const std::string_view piece = text_.substr(at_, end - at_);
    if (options_.segments != nullptr) {
      options_.segments->encode(tokenizer_, piece, inside, prompt_.ids);
    } else {
      const std::vector<int32_t> ids = tokenizer_.encode(piece, inside);
      prompt_.ids.insert(prompt_.ids.end(), ids.begin(), ids.end());
    }
    at_ = end;
  }

  // `tokens` stand for the text up to `end`.
  void replay_to(size_t end, const std::vector<int32_t>& tokens) {
    prompt_.ids.insert(prompt_.ids.end(), tokens.begin(), tokens.end());
    at_ = end;
    while (range_ < ranges_.size() && ranges_[range_].end <= end) ++range_;
    ++prompt_.replayed_turns;
  }

  // The first token is there without any system text.
  void end_system() { prompt_.system_tokens = prompt_.ids.size() > 1 ? std::ssize(prompt_.ids) : 0; }
  void add_resume_point() { prompt_.resume_points.push_back(std::ssize(prompt_.ids)); }

  // The think token that stands at the current place, or nothing.
  std::string_view think_token() const {
    for (std::string_view token : {kThinkText, kEndThinkText}) {
      if (text_.substr(at_, token.size()) == token) return token;
    }
    return {};
  }
  Prompt take() { return std::move(prompt_); }

 private:
  std::string_view text_;
  const std::vector<ByteRange>& ranges_;
  const Tokenizer& tokenizer_;
  const PromptOptions& options_;
  size_t at_ = 0;     // text before it is encoded
  size_t range_ = 0;  // ranges before it end before at_
  Prompt prompt_;
};

// Cuts are exact only at tokens that the tokenizer matches in raw text.
bool can_cut(const Tokenizer& tokenizer) {
  const std::array<std::string_view, 5> tokens = {kUserText, kAssistantText, kEosText, kThinkText,
                                                  kEndThinkText};
  return std::all_of(tokens.begin(), tokens.end(),
                     [&](std::string_view t) { return tokenizer.added_id(t) >= 0; });
}

Prompt encode_chat(const RenderedPrompt& rendered, const std::vector<const Message*>& answers,
                   const Tokenizer& tokenizer, const PromptOptions& options) {
  PromptEncoder encoder(rendered, tokenizer, options);
  size_t next_answer = 0;
  bool after_think = false;  // the current place is where an answer begins
  bool in_reasoning = false;
  bool has_user = false;
  for (const Mark& mark : can_cut(tokenizer) ? find_marks(rendered) : std::vector<Mark>()) {
    if (mark.kind == Mark::Kind::kUser) {
      encoder.encode_to(mark.begin);
      if (!has_user) encoder.end_system();
      has_user = true;
      after_think = false;
    } else if (mark.kind == Mark::Kind::kAssistant) {
      encoder.encode_to(mark.end);
      encoder.add_resume_point();
      const std::string_view think = encoder.think_token();
      encoder.encode_to(mark.end + think.size());
      after_think = !think.empty();
      in_reasoning = think == kThinkText;
    } else {
      // The j-th end token ends the j-th answer.
      const Message* answer = next_answer < answers.size() ? answers[next_answer] : nullptr;
      ++next_answer;
      const auto turn = after_think && answer != nullptr && options.memory != nullptr
                            ? options.memory->find_turn(options.cache_namespace, *answer)
                            : nullptr;
      if (turn != nullptr && turn->in_reasoning == in_reasoning) encoder.replay_to(mark.begin, turn->tokens);
      encoder.encode_to(mark.begin);
      after_think = false;
    }
  }
  encoder.encode_to(rendered.text.size());
  Prompt prompt = encoder.take();
  prompt.in_reasoning = rendered.in_reasoning;
  return prompt;
}

// Protocol 2.6. A plain prompt is the client's own template: special tokens in it count. What is filled in
// the middle is somebody's file: there they are text.
Prompt encode_raw(const RawPrompt& raw, const Tokenizer& tokenizer) {
  Prompt prompt;
  if (raw.tokens) {
    prompt.ids = *raw.tokens;
    return prompt;
  }
  std::string text(raw.suffix || !raw.text.starts_with(kBosText) ? kBosText : std::string_view());
  std::vector<ByteRange> client;
  const auto add_client = [&](std::string_view part) {
    if (!part.empty()) client.push_back({text.size(), text.size() + part.size()});
    text += part;
  };
  if (raw.suffix) {
    text += kFimBegin;
    add_client(raw.text);
    text += kFimHole;
    add_client(*raw.suffix);
    text += kFimEnd;
  } else {
    text += raw.text;
  }
  prompt.ids = tokenizer.encode(text, client);
  return prompt;
}

}  // namespace

Result<Prompt> build_prompt(const ChatRequest& request, const Tokenizer& tokenizer,
                            const PromptOptions& options) {
  if (request.raw) return encode_raw(*request.raw, tokenizer);
  Conversation conversation = request.conversation;
  KVASIR_TRY_STATUS(restore_calls(conversation.messages, options));
  int recovered = 0;
  if (request.thinks()) recovered = recover_reasoning(conversation.messages, options);
  KVASIR_TRY(const RenderedPrompt rendered, render_chat(conversation, request.render));
  std::vector<const Message*> answers;
  for (const Message& m : conversation.messages) {
    if (m.role == Role::kAssistant) answers.push_back(&m);
  }
  Prompt prompt = encode_chat(rendered, answers, tokenizer, options);
  prompt.recovered_turns = recovered;
  return prompt;
}

Fit fit_max_tokens(const ChatRequest& request, int64_t prompt_tokens, int64_t max_context) {
  const int64_t left = max_context - prompt_tokens;
  if (left < 1) return {0, context_error(request.dialect, prompt_tokens, request.max_tokens, max_context)};
  return {std::min(request.max_tokens, left), std::nullopt};
}

}  // namespace kvasir
