// ApiError: what a client is told when something went wrong, and how each dialect says it (protocol 9).
//
// The one place that maps an Error's code to an HTTP status. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "api/chat_request.h"
#include "base/result.h"

namespace kvasir {

enum class Fault {
  kInvalid,        // 400
  kContextLength,  // 400: the prompt does not fit (ERR-1)
  kUnauthorized,   // 401
  kForbidden,      // 403
  kNotFound,       // 404
  kMethod,         // 405
  kTimeout,        // 408: the request's deadline passed
  kTooLarge,       // 413: the body
  kRateLimit,      // 429: this client has too many requests
  kCancelled,      // 499: seen in logs only, nobody is there to read it
  kInternal,       // 500
  kOverloaded,     // 503; Anthropic 529
};

struct ApiError {
  Fault fault = Fault::kInternal;
  std::string message;
  int retry_after_s = 0;  // > 0: a retry-after header
};

// The only map of ErrorCode to what clients see. kIo becomes "internal error" without the message: paths are
// not for clients; log it.
ApiError api_error(const Error& error);

int http_status(const ApiError& error, Dialect dialect);
// The whole body of an error response. `request_id` appears in Anthropic's form.
std::string error_body(const ApiError& error, Dialect dialect, std::string_view request_id);
// The inner object, {"message", "type", ...}, in compact JSON.
std::string error_object(const ApiError& error, Dialect dialect);
// "context_length_exceeded", "rate_limit_exceeded" ...
std::string_view error_code(const ApiError& error);

// ERR-1. `output_tokens` is what the request asks for.
ApiError context_error(Dialect dialect, int64_t prompt_tokens, int64_t output_tokens, int64_t max_context);
// The engine is full (ERR-2).
ApiError overloaded_error(int retry_after_s);

}  // namespace kvasir
