// POST /chat/completions, in DeepSeek's and OpenAI's dialects: JSON to the neutral request (protocol 5).
#pragma once

#include <string_view>

#include "api/chat_request.h"
#include "base/result.h"

namespace kvasir {

Result<ChatRequest> parse_chat(std::string_view body, const ApiOptions& options);

}  // namespace kvasir
