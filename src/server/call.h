// One request on its way through the App, shared by its handler files. Not for other rooms.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "api/response_formatter.h"
#include "server/answer.h"
#include "server/app.h"

namespace kvasir {

using Clock = std::chrono::steady_clock;

struct App::Call {
  const HttpRequest& http;
  ResponseWriter& out;
  std::string_view endpoint;         // for metrics: "chat", "messages", "models", ...
  Dialect dialect = Dialect::kChat;  // of the path, also for its errors
  std::string_view argument = {};    // of /models/{id} and /sessions/{id}
  const ApiKey* key = nullptr;
  Clock::time_point begin = Clock::now();

  uint64_t cache_namespace(const Settings& settings) const {
    return settings.namespace_per_key && key ? key->cache_namespace : 0;
  }
};

// A request that generates: first read, then submitted.
struct App::Prepared {
  std::optional<ApiError> error;  // set: there is nothing else
  ChatRequest chat;
  Prompt prompt;
  int64_t max_tokens = 0;
  std::unique_ptr<TokenConstraint> constraint;

  std::optional<StreamSlot> slot;
  std::unique_ptr<TokenStream> stream;
  std::unique_ptr<ResponseFormatter> formatter;
  std::unique_ptr<AnswerInProgress> answer;  // borrows chat and formatter
  bool has_token = false;
  Clock::time_point last_sent = Clock::now();
};

}  // namespace kvasir
