// Reads a conversation from JSON in the shape of the OpenAI chat API and of the published fixtures:
//
//   [message, ...]   or   {"messages": [...], "tools": [...], "tool_choice": ...}
//   message: role, content (string, null or parts), reasoning_content (or reasoning), tool_calls,
//            tool_call_id; and the fixtures' own tools, response_format, task, wo_eos; prefix = wo_eos.
//
// Keys not named here change nothing (ENC-4), so a whole API request can be read. Pure, any thread.
#pragma once

#include "base/result.h"
#include "text/chat_message.h"
#include "text/json_value.h"

namespace kvasir {

// What to do with a part of a message that is not text: V4 reads text only (ENC-5).
enum class OtherParts {
  kReject,       // kUnsupported, naming the part
  kPlaceholder,  // "[Unsupported image_url]" in its place, as the reference does
};

// An error names the place in the JSON, what was there and what was expected.
Result<Conversation> conversation_from_json(const JsonValue& json, OtherParts other_parts);

}  // namespace kvasir
