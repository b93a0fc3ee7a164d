// POST /v1/messages and /v1/messages/count_tokens: JSON to the neutral request (protocol 8).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "api/chat_request.h"
#include "base/result.h"

namespace kvasir {

// Serves both paths: count_tokens has the same body with fewer members (ANT-3).
Result<ChatRequest> parse_messages(std::string_view body, const ApiOptions& options);

// {"input_tokens": n}
std::string token_count_body(int64_t tokens);

}  // namespace kvasir
