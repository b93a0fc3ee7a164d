// POST /v1/completions and /beta/completions: plain continuation and fill-in-the-middle (protocol 2.6, 5.4).
#pragma once

#include <string_view>

#include "api/chat_request.h"
#include "base/result.h"

namespace kvasir {

Result<ChatRequest> parse_completion(std::string_view body, const ApiOptions& options);

}  // namespace kvasir
