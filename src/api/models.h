// The small endpoints: models, tokens of a text, health, balance. JSON in and out; pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/chat_request.h"
#include "base/result.h"
#include "text/tokenizer.h"

namespace kvasir {

struct ModelInfo {
  std::string id;
  int64_t created = 0;  // seconds since 1970
  int64_t max_context = 0;
};

// One object for the readers of both OpenAI's and Anthropic's lists.
std::string models_body(const std::vector<ModelInfo>& models);
std::string model_body(const ModelInfo& model);

// POST /tokenize: a text in `content`, `prompt` or `text`; or a chat request, whose whole prompt is meant.
struct TokenizeRequest {
  std::string text;
  bool add_special = false;   // put the begin token before it
  bool parse_special = true;  // contents of special tokens count as those
  std::optional<ChatRequest> chat;
};
Result<TokenizeRequest> parse_tokenize(std::string_view body, const ApiOptions& options);
// The ids of the text form.
std::vector<int32_t> tokenize_text(const TokenizeRequest& request, const Tokenizer& tokenizer);
std::string tokenize_body(const std::vector<int32_t>& ids, int64_t max_context);

// POST /detokenize: {"tokens": [...]}.
Result<std::vector<int32_t>> parse_detokenize(std::string_view body, const ApiOptions& options,
                                              int32_t vocab_size);
std::string detokenize_body(const std::vector<int32_t>& ids, const Tokenizer& tokenizer);

enum class Health { kOk, kLoading, kDraining, kFailed };
std::string health_body(Health health, int64_t running, int64_t waiting);
int health_status(Health health);  // 200, else 503

// GET /user/balance: a local server has no account.
std::string balance_body();

}  // namespace kvasir
