// Tools of the Responses API: functions, namespaces of functions, and custom tools, as functions of the
// prompt.
#pragma once

#include <string>
#include <string_view>

#include "api/chat_request.h"
#include "api/json_fields.h"
#include "base/result.h"

namespace kvasir {

// The name in the prompt of a tool in a namespace (RSP-2).
std::string namespaced_name(std::string_view name_space, std::string_view name);

// Adds the tools of a list. Kinds that are not ours are skipped (RSP-1).
Status read_response_tools(const JsonValue::Array& tools, const std::string& path, ChatRequest& request);
Status read_response_tool_choice(const JsonFields& body, ChatRequest& request);

}  // namespace kvasir
