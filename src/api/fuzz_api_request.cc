// Fuzzes the four parsers: any bytes give a request or an error with a message, and a request gives a prompt
// that could be rendered, the same through every formatter's bookkeeping.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "api/anthropic_messages.h"
#include "api/errors.h"
#include "api/json_fields.h"
#include "api/models.h"
#include "api/openai_chat.h"
#include "api/openai_completions.h"
#include "api/openai_responses.h"
#include "api/replay_memory.h"
#include "api/response_formatter.h"
#include "api/session_json.h"
#include "base/check.h"

namespace kvasir {
namespace {

void check_json(std::string_view text) {
  KVASIR_CHECK(JsonValue::parse(text).has_value(), "not JSON: {}", text);
}

void check_answer(ChatRequest request) {
  for (const bool stream : {false, true}) {
    request.stream = stream;
    char next = 'a';
    auto formatter = make_formatter(request, {.new_id = [&] { return std::string(24, next++); }});
    SseEvents out;
    formatter->begin({.prompt_tokens = 2}, out);
    if (request.thinks()) formatter->reasoning("r", {}, out);
    formatter->content("c", {}, out);
    for (const OfferedTool& tool : request.tools) {
      if (next > 'n') break;
      formatter->call_begin(tool.prompt_name, out);
      formatter->arguments("{\"input\": \"x\"}", out);
    }
    formatter->finish({.usage = {.prompt_tokens = 2, .completion_tokens = 2}}, out);
    if (!stream) check_json(formatter->whole());
    for (const SseEvent& event : out) {
      if (event.data != "[DONE]") check_json(event.data);
    }
  }
}

void run(uint8_t flags, std::string_view text) {
  ApiOptions options;
  options.revision = flags & 1 ? TemplateRevision::kA : TemplateRevision::kB;
  options.other_parts = flags & 2 ? OtherParts::kReject : OtherParts::kPlaceholder;
  options.require_reasoning = flags & 4;
  options.sort_tools = flags & 8;
  parse_turn(text);
  if (!JsonValue::parse(text)) (void)json_error_position(text);
  for (const auto parse : {parse_chat, parse_responses, parse_messages, parse_completion}) {
    auto request = parse(text, options);
    if (!request) {
      KVASIR_CHECK(!request.error().message.empty(), "an error without a message");
      for (const Dialect d : {Dialect::kChat, Dialect::kMessages}) {
        const ApiError error = api_error(request.error());
        KVASIR_CHECK(http_status(error, d) == 400, "status {}", http_status(error, d));
        check_json(error_body(error, d, "r"));
      }
      continue;
    }
    KVASIR_CHECK(request->tools.size() == request->conversation.tools.size(), "{} tools, {} functions",
                 request->tools.size(), request->conversation.tools.size());
    KVASIR_CHECK(request->max_tokens > 0, "max_tokens {}", request->max_tokens);
    if (!request->raw) (void)render_chat(request->conversation, request->render).has_value();
    check_answer(*std::move(request));
  }
  (void)parse_tokenize(text, options).has_value();
  (void)parse_detokenize(text, options, 100).has_value();
  (void)parse_session_choice(text, options).has_value();
  (void)parse_session_fork(text, options).has_value();
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) kvasir::run(data[0], std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  return 0;
}
