// ChatRequest: what a client asked for, whichever API it spoke; and the options and limits of reading it.
//
// Every parser of this room ends here (parse_chat, parse_responses, parse_messages, parse_completion) and
// every formatter starts here. Values only; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "text/chat_json.h"
#include "text/chat_message.h"
#include "text/chat_template.h"

namespace kvasir {

enum class Dialect { kChat, kResponses, kMessages, kCompletions };

enum class ToolUse { kNone, kAuto, kRequired, kNamed };

// How a tool that the model sees is called by the client. Same order as Conversation::tools.
struct OfferedTool {
  std::string prompt_name;      // in the prompt, and in what the model samples
  std::string name;             // the client's own
  std::string name_space = {};  // Responses: the namespace that holds it (RSP-2)
  bool custom = false;          // Responses: takes raw text, offered as one string `input` (RSP-3)
  bool strict = false;
};

struct ReplyFormat {
  enum class Kind { kText, kJsonObject, kJsonSchema };
  Kind kind = Kind::kText;
  std::string name = {};  // of the schema, echoed by Responses
  JsonValue schema = {};  // an object with kJsonSchema
  bool strict = false;
};

// The prompt of /v1/completions: no chat template around it.
struct RawPrompt {
  std::string text;
  std::optional<std::string> suffix;           // fill in the middle
  std::optional<std::vector<int32_t>> tokens;  // given as ids: `text` is empty
  bool echo = false;
};

struct ChatRequest {
  Dialect dialect = Dialect::kChat;
  std::string model;  // as requested, without "[1m]"
  Conversation conversation;
  std::vector<OfferedTool> tools;  // one for each of conversation.tools
  std::optional<RawPrompt> raw;    // kCompletions, and only there

  RenderOptions render = {};  // revision, thinking, effort (protocol 4.1)
  ToolUse tool_use = ToolUse::kAuto;
  std::string forced_tool;  // prompt_name, with ToolUse::kNamed
  ReplyFormat reply_format;

  SamplingParams sampling;
  bool has_seed = false;   // false: the server draws sampling.seed
  int64_t max_tokens = 0;  // reasoning included; whoever knows the context clamps it (fit_max_tokens)
  std::vector<std::string> stop;

  bool stream = false;
  bool include_usage = false;  // chat: `usage: null` on every chunk before the last

  bool encrypted_reasoning = false;  // Responses: put `encrypted_content` on reasoning items

  Priority priority = Priority::kInteractive;
  std::string user_id;
  std::string session_id;

  bool thinks() const { return render.thinking == Thinking::kOn; }
  // What is sampled can call tools.
  bool offers_tools() const { return tool_use != ToolUse::kNone && !conversation.tools.empty(); }
};

struct ApiLimits {
  size_t json_depth = 128;
  size_t messages = 16384;
  size_t tools = 128;
  size_t tool_bytes = size_t{1} << 20;      // all tool schemas of a request, as JSON text
  size_t schema_bytes = size_t{256} << 10;  // the schema of a reply
  size_t stop_strings = 16;
  size_t stop_bytes = 1024;  // each
  size_t logit_bias = 1024;
  int top_logprobs = 20;
};

struct ApiOptions {
  TemplateRevision revision = TemplateRevision::kA;
  ApiLimits limits = {};
  OtherParts other_parts = OtherParts::kReject;  // ENC-5
  bool require_reasoning = false;    // THK-3 strict: a tool call sent back without its reasoning is a 400
  bool refuse_forced_tools = false;  // THK-4 parity: a forced tool in thinking mode is a 400
  bool sampling_in_thinking =
      false;                // honour temperature, top_p and penalties in thinking mode too (protocol 5.1)
  bool sort_tools = false;  // by name, for clients with unordered maps (protocol 10, item 19)
};

}  // namespace kvasir
