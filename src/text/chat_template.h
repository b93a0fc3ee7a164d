// The chat template of DeepSeek-V4: a conversation becomes the one text that the model continues.
//
// Two layers. render_messages() is the published encoder, byte for byte, for any message list that it
// accepts; render_chat() first applies the rules of our server (prepare_messages) and is what requests use.
// Pure functions, no state, any thread. Source: protocol.md 2 (encoder) and 4 (rules named ENC and SYS).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "text/byte_range.h"
#include "text/chat_message.h"

namespace kvasir {

// Which release of the weights the prompt is for. They differ in effort texts only (protocol.md 2.4).
enum class TemplateRevision {
  kA,  // April 2026: V4-Flash, V4-Pro
  kB,  // V4-Flash-0731, V4-Pro-0813
};

enum class Thinking { kOff, kOn };

// With kNone no effort was asked for. Rev A has one text (kMax), rev B two (kHigh, kMax).
enum class Effort { kNone, kLow, kHigh, kMax };

struct RenderOptions {
  TemplateRevision revision = TemplateRevision::kA;
  Thinking thinking = Thinking::kOn;
  Effort effort = Effort::kNone;
  // Old reasoning is left out unless some message offers tools. False keeps it always.
  bool drop_thinking = true;
};

struct RenderedPrompt {
  std::string text;
  // What clients wrote, ascending, disjoint: no added token may match a byte of it (TOK-2).
  std::vector<ByteRange> protected_ranges;
  // The text ends with the opening of a reasoning: the completion starts inside it.
  bool in_reasoning = false;
};

// The published encoder. kInvalid: an empty list, a developer message without content.
Result<RenderedPrompt> render_messages(std::span<const Message> messages, const RenderOptions& options);

// Our rules that turn a request's list into one for the encoder:
//   SYS-1  the leading run of system messages becomes one, texts joined by an empty line
//   SYS-2  a later system message stays in place, wrapped, as text of the user message before it or a new one
//   ENC-1  tools (and the response format) go on the leading system message, which is made if there is none
//   ENC-2  with tool choice none no tools are rendered
//   ENC-7  empty arguments are no parameters
//   ENC-8  only the last message can be open-ended
std::vector<Message> prepare_messages(const Conversation& conversation);

// prepare_messages, render_messages, and a fresh turn for the model when the list ends with a finished
// assistant message or with system text only (ENC-8).
Result<RenderedPrompt> render_chat(const Conversation& conversation, const RenderOptions& options);

// What the model would have sampled for an assistant message, after the prompt's last think token:
// reasoning (with Thinking::kOn), content, tool block, end token unless it is open-ended.
RenderedPrompt render_completion(const Message& assistant, Thinking thinking);

// The parameters of a call, in order (ENC-7): those of an object or of its JSON text, none for null, and
// one named `arguments` with the raw text for everything else.
JsonValue::Object call_parameters(const JsonValue& arguments);

}  // namespace kvasir
