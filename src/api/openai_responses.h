// POST /responses: JSON to the neutral request (protocol 7).
#pragma once

#include <string_view>

#include "api/chat_request.h"
#include "base/result.h"

namespace kvasir {

Result<ChatRequest> parse_responses(std::string_view body, const ApiOptions& options);

}  // namespace kvasir
