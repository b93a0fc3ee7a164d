#include "api/errors.h"

#include <fmt/format.h>

#include "base/json_writer.h"

namespace kvasir {
namespace {

constexpr int kRetryAfterSeconds = 1;

// One row per fault: status, and the word for it in each dialect.
struct FaultWords {
  int status;
  std::string_view openai_type;
  std::string_view openai_code;
  std::string_view anthropic_type;
};

FaultWords words(Fault fault) {
  constexpr std::string_view kInvalidRequest = "invalid_request_error";
  switch (fault) {
    case Fault::kInvalid:
      return {400, kInvalidRequest, kInvalidRequest, kInvalidRequest};
    case Fault::kContextLength:
      return {400, kInvalidRequest, "context_length_exceeded", kInvalidRequest};
    case Fault::kUnauthorized:
      return {401, "authentication_error", "invalid_api_key", "authentication_error"};
    case Fault::kForbidden:
      return {403, "permission_error", "permission_denied", "permission_error"};
    case Fault::kNotFound:
      return {404, kInvalidRequest, "not_found", "not_found_error"};
    case Fault::kMethod:
      return {405, kInvalidRequest, "method_not_allowed", kInvalidRequest};
    case Fault::kTimeout:
      return {408, "timeout_error", "request_timeout", "api_error"};
    case Fault::kTooLarge:
      return {413, kInvalidRequest, "request_too_large", "request_too_large"};
    case Fault::kRateLimit:
      return {429, "rate_limit_error", "rate_limit_exceeded", "rate_limit_error"};
    case Fault::kCancelled:
      return {499, "api_error", "cancelled", "api_error"};
    case Fault::kInternal:
      return {500, "api_error", "internal_error", "api_error"};
    case Fault::kOverloaded:
      return {503, "overloaded_error", "server_overloaded", "overloaded_error"};
  }
  return {500, "api_error", "internal_error", "api_error"};
}

}  // namespace

ApiError api_error(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalid:
    case ErrorCode::kUnsupported:
      return {Fault::kInvalid, error.message};
    case ErrorCode::kNotFound:
      return {Fault::kNotFound, error.message};
    case ErrorCode::kBusy:
      return {Fault::kOverloaded, error.message, kRetryAfterSeconds};
    case ErrorCode::kCancelled:
      return {Fault::kCancelled, error.message};
    case ErrorCode::kIo:
      break;
  }
  return {Fault::kInternal, "internal error"};
}

int http_status(const ApiError& error, Dialect dialect) {
  if (error.fault == Fault::kOverloaded && dialect == Dialect::kMessages) return 529;
  return words(error.fault).status;
}

std::string_view error_code(const ApiError& error) { return words(error.fault).openai_code; }

std::string error_object(const ApiError& error, Dialect dialect) {
  const FaultWords w = words(error.fault);
  JsonWriter json;
  json.begin_object();
  if (dialect == Dialect::kMessages) {
    json.field("type", w.anthropic_type).field("message", error.message);
  } else {
    json.field("message", error.message).field("type", w.openai_type).key("param").null();
    json.field("code", w.openai_code);
  }
  json.end_object();
  return json.text();
}

std::string error_body(const ApiError& error, Dialect dialect, std::string_view request_id) {
  if (dialect != Dialect::kMessages) return "{\"error\":" + error_object(error, dialect) + "}";
  return fmt::format("{{\"type\":\"error\",\"error\":{},\"request_id\":{}}}", error_object(error, dialect),
                     json_quote(request_id));
}

// Both texts word for word: clients find the numbers in them.
ApiError context_error(Dialect dialect, int64_t prompt_tokens, int64_t output_tokens, int64_t max_context) {
  if (dialect == Dialect::kMessages) {
    return {Fault::kContextLength,
            fmt::format("prompt is too long: {} tokens > {} maximum", prompt_tokens, max_context)};
  }
  return {Fault::kContextLength,
          fmt::format(
              "This model's maximum context length is {} tokens. However, you requested {} tokens ({} in "
              "the messages, {} in the completion). Please reduce the length of the messages or completion.",
              max_context, prompt_tokens + output_tokens, prompt_tokens, output_tokens)};
}

ApiError overloaded_error(int retry_after_s) {
  return {Fault::kOverloaded, "The server is overloaded. Please retry later.", retry_after_s};
}

}  // namespace kvasir
