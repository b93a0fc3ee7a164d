// The parts of a request that several APIs share: model name, effort, sampling, tools; and the rules that are
// checked once everything is read. Pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "api/chat_request.h"
#include "api/json_fields.h"
#include "base/result.h"

namespace kvasir {

// What a request says about thinking, before protocol 4.1 is applied.
struct ThinkingAsked {
  std::optional<bool> enabled = {};        // thinking.type
  std::optional<std::string> effort = {};  // as written
  std::string effort_path = {};            // for errors
};

// `thinking: {"type": "enabled" | "adaptive" | "disabled"}`.
Result<std::optional<bool>> read_thinking_type(const JsonFields& body);
// Fills render of `request`. An explicit "disabled" wins over any effort.
Status settle_thinking(const ThinkingAsked& asked, const ApiOptions& options, ChatRequest& request);

// Every dialect's parser: the fields named alike everywhere (model, stream, temperature, top_p, top_k, min_p,
// penalties, seed, logit_bias, priority, session_id), then what `read` finds of the dialect's own.
using ReadDialect = Status (*)(const JsonFields& body, const ApiOptions& options, ChatRequest& request);
Result<ChatRequest> read_request(std::string_view text, Dialect dialect, const ApiOptions& options,
                                 ReadDialect read);
// A string or an array of strings at `key`.
Status read_stop(const JsonFields& body, std::string_view key, const ApiLimits& limits, ChatRequest& request);
// logprobs and top_logprobs of the chat API.
Status read_logprobs(const JsonFields& body, const ApiLimits& limits, ChatRequest& request);

// `format` has the type; `schema` the members "schema", "name" and "strict" of a json_schema.
Status read_reply_format(const JsonFields& format, const JsonFields& schema, ChatRequest& request);

// `tools` of the body, not too many; null if absent.
Result<const JsonValue::Array*> read_tool_list(const JsonFields& body, const ApiLimits& limits);
// Adds a tool. `function` is the object that goes into the prompt; `path` names the tool in errors.
Status add_tool(JsonValue function, OfferedTool tool, std::string_view path, ChatRequest& request);
// {"name", "description", "parameters"}, absent ones left out (ENC-3).
JsonValue function_object(std::string_view name, const JsonValue* description, const JsonValue* parameters);
// The tool that the client calls `name`; null if there is none.
const OfferedTool* find_offered(const ChatRequest& request, std::string_view name,
                                std::string_view name_space = {});
// tool_choice names `name`, at `path`.
Status force_tool(std::string_view name, std::string_view path, ChatRequest& request);

// Last step of every chat parser: tool count and size, tool choice against tools (ENC-2, THK-4), reasoning
// that must be there (THK-3 strict), message count, defaults of max_tokens, sampling in thinking mode.
Status settle_request(const ApiOptions& options, ChatRequest& request);

// The text of a content: a string, or parts whose type is one of `types`, joined by empty lines (ENC-4).
// Other parts are refused or named (ENC-5).
Result<std::string> read_text_parts(const JsonValue* content, std::span<const std::string_view> types,
                                    const ApiOptions& options, const std::string& path);
// What stands for a part that is no text, or an error (ENC-5).
Result<std::string> read_other_part(const JsonValue& part, const ApiOptions& options,
                                    const std::string& path);

// A paragraph more, an empty line between.
void append_paragraph(std::string& text, std::string_view paragraph);

}  // namespace kvasir
