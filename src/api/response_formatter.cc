#include "api/response_formatter.h"

#include "base/check.h"

namespace kvasir {
namespace {

void append(Logprobs& to, const Logprobs& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

void ResponseFormatter::begin(const Usage& prompt, SseEvents& out) {
  KVASIR_CHECK(!begun_, "begin comes once");
  KVASIR_CHECK(prompt.cache.hit_tokens < prompt.prompt_tokens || prompt.prompt_tokens == 0,
               "{} hit tokens of {}: the last one is always computed", prompt.cache.hit_tokens,
               prompt.prompt_tokens);
  begun_ = true;
  prompt_ = prompt;
  if (request_.stream) on_begin(out);
}

void ResponseFormatter::reasoning(std::string_view text, Logprobs logprobs, SseEvents& out) {
  KVASIR_CHECK(begun_ && !ended_, "reasoning outside of an answer");
  KVASIR_CHECK(answer_.content.empty() && answer_.calls.empty(), "reasoning after content");
  answer_.reasoning += text;
  append(answer_.reasoning_logprobs, logprobs);
  if (request_.stream && !(text.empty() && logprobs.empty())) on_reasoning(text, logprobs, out);
}

void ResponseFormatter::content(std::string_view text, Logprobs logprobs, SseEvents& out) {
  KVASIR_CHECK(begun_ && !ended_, "content outside of an answer");
  KVASIR_CHECK(answer_.calls.empty(), "content after a call");
  answer_.content += text;
  append(answer_.content_logprobs, logprobs);
  if (request_.stream && !(text.empty() && logprobs.empty())) on_content(text, logprobs, out);
}

void ResponseFormatter::call_begin(std::string_view prompt_name, SseEvents& out) {
  KVASIR_CHECK(begun_ && !ended_, "a call outside of an answer");
  answer_.calls.push_back({new_call_id(answer_.calls.size()), std::string(prompt_name), ""});
  if (request_.stream) on_call_begin(out);
}

void ResponseFormatter::arguments(std::string_view text, SseEvents& out) {
  KVASIR_CHECK(begun_ && !ended_ && !answer_.calls.empty(), "arguments of no call");
  answer_.calls.back().arguments += text;
  if (request_.stream && !text.empty()) on_arguments(text, out);
}

void ResponseFormatter::keep_alive(SseEvents& out) {
  if (request_.stream && !ended_) on_keep_alive(out);
}

void ResponseFormatter::on_keep_alive(SseEvents& out) { out.push_back({"", "keep-alive", true}); }

void ResponseFormatter::finish(const Finish& finish, SseEvents& out) {
  KVASIR_CHECK(begun_ && !ended_, "an answer ends once");
  ended_ = true;
  finish_ = finish;
  if (request_.stream) on_finish(out);
}

void ResponseFormatter::fail(const ApiError& error, SseEvents& out) {
  if (ended_) return;
  ended_ = true;
  if (request_.stream) on_fail(error, out);
}

const OfferedTool* ResponseFormatter::tool_of(const AnswerCall& call) const {
  for (const OfferedTool& tool : request_.tools) {
    if (tool.prompt_name == call.prompt_name) return &tool;
  }
  return nullptr;
}

const std::string& ResponseFormatter::client_name(const AnswerCall& call) const {
  const OfferedTool* tool = tool_of(call);
  return tool == nullptr ? call.prompt_name : tool->name;
}

}  // namespace kvasir
