// What clients are told: texts that real clients parse, statuses, and the shape of each dialect.
#include "api/errors.h"

#include <gtest/gtest.h>

#include "api/prompt.h"

namespace kvasir {
namespace {

TEST(ApiErrors, Err1ContextOverflowHasTheTextsThatClientsParse) {
  const ApiError chat = context_error(Dialect::kChat, 900, 200, 1000);
  EXPECT_EQ(http_status(chat, Dialect::kChat), 400);
  EXPECT_EQ(
      error_body(chat, Dialect::kChat, ""),
      R"({"error":{"message":"This model's maximum context length is 1000 tokens. However, you requested 1100 )"
      R"(tokens (900 in the messages, 200 in the completion). Please reduce the length of the messages or )"
      R"(completion.","type":"invalid_request_error","param":null,"code":"context_length_exceeded"}})");
  const ApiError messages = context_error(Dialect::kMessages, 1200, 1, 1000);
  EXPECT_EQ(http_status(messages, Dialect::kMessages), 400);
  EXPECT_EQ(
      error_body(messages, Dialect::kMessages, "req_7"),
      R"({"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 1200 tokens > )"
      R"(1000 maximum"},"request_id":"req_7"})");
}

TEST(ApiErrors, Err1OutputIsClampedBeforeAPromptIsRefused) {
  ChatRequest request;
  request.max_tokens = 500;
  EXPECT_EQ(fit_max_tokens(request, 100, 1000).max_tokens, 500);
  EXPECT_EQ(fit_max_tokens(request, 800, 1000).max_tokens, 200);
  EXPECT_EQ(fit_max_tokens(request, 999, 1000).max_tokens, 1);
  const Fit none = fit_max_tokens(request, 1000, 1000);
  ASSERT_TRUE(none.error);
  EXPECT_EQ(error_code(*none.error), "context_length_exceeded");
}

TEST(ApiErrors, Err2OverloadIs503Or529WithRetryAfter) {
  const ApiError busy = api_error({ErrorCode::kBusy, "1024 requests are waiting"});
  EXPECT_EQ(http_status(busy, Dialect::kChat), 503);
  EXPECT_EQ(http_status(busy, Dialect::kResponses), 503);
  EXPECT_EQ(http_status(busy, Dialect::kMessages), 529);
  EXPECT_GT(busy.retry_after_s, 0);
}

TEST(ApiErrors, MapEachCodeToAStatus) {
  const std::vector<std::pair<ErrorCode, int>> map = {
      {ErrorCode::kInvalid, 400}, {ErrorCode::kNotFound, 404}, {ErrorCode::kUnsupported, 400},
      {ErrorCode::kBusy, 503},    {ErrorCode::kIo, 500},       {ErrorCode::kCancelled, 499}};
  for (const auto& [code, status] : map)
    EXPECT_EQ(http_status(api_error({code, "x"}), Dialect::kChat), status);
}

TEST(ApiErrors, TellNoPathsOfOurDisk) {
  EXPECT_EQ(api_error({ErrorCode::kIo, "/secret/file: no space"}).message, "internal error");
}

TEST(ApiErrors, HaveTheTypesOfEachDialect) {
  const ApiError key{Fault::kUnauthorized, "unknown key"};
  EXPECT_EQ(http_status(key, Dialect::kMessages), 401);
  EXPECT_EQ(error_object(key, Dialect::kMessages),
            R"({"type":"authentication_error","message":"unknown key"})");
  EXPECT_EQ(error_object({Fault::kTooLarge, "m"}, Dialect::kMessages),
            R"({"type":"request_too_large","message":"m"})");
  EXPECT_EQ(error_object({Fault::kRateLimit, "m"}, Dialect::kChat),
            R"({"message":"m","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"})");
}

}  // namespace
}  // namespace kvasir
