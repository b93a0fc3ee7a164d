// See answer.h.
#include "server/answer.h"

#include <fmt/core.h>

#include <utility>

#include "api/logprobs.h"

namespace kvasir {
namespace {

std::optional<OutputFormat> output_format(const ChatRequest& request, bool in_reasoning) {
  if (request.raw) return std::nullopt;
  OutputFormat format;
  format.in_reasoning = in_reasoning;
  format.tool_choice = request.tool_use == ToolUse::kNone ? ToolChoice::kNone : ToolChoice::kAuto;
  if (request.offers_tools()) format.tools = request.conversation.tools;
  return format;
}

}  // namespace

AnswerInProgress::AnswerInProgress(const ChatRequest& request, const Tokenizer& tokenizer, bool in_reasoning,
                                   int64_t prompt_tokens, ResponseFormatter& formatter)
    : request_(request),
      tokenizer_(tokenizer),
      formatter_(formatter),
      text_(tokenizer, output_format(request, in_reasoning), request.stop),
      in_reasoning_(in_reasoning && !request.raw),
      end_of_thinking_(tokenizer.added_id("</think>")) {
  usage_.prompt_tokens = prompt_tokens;
}

void AnswerInProgress::push(const StreamEvent& event, SseEvents& out) {
  switch (event.kind) {
    case StreamEvent::Kind::kAdmitted:
      usage_.cache = event.hit;
      // A client is told what was really not computed (CACHE-1); the engine counts replayed tokens as found.
      usage_.cache.hit_tokens -= usage_.cache.replayed_tokens;
      formatter_.begin(usage_, out);
      return;
    case StreamEvent::Kind::kPrefill:
      return;
    case StreamEvent::Kind::kToken:
      return token(event.token, out);
    case StreamEvent::Kind::kEnd:
      return end(event, out);
  }
}

void AnswerInProgress::token(const SampledToken& token, SseEvents& out) {
  if (done_) return;
  sampled_.push_back(token.id);
  ++usage_.completion_tokens;
  if (in_reasoning_) ++usage_.reasoning_tokens;
  if (token.id == end_of_thinking_) in_reasoning_ = false;
  if (request_.sampling.top_logprobs >= 0) pending_.push_back(token_logprob(token, tokenizer_));
  show(text_.push(token.id), out);
  done_ = text_.is_done();
}

void AnswerInProgress::show(const std::vector<Delta>& deltas, SseEvents& out) {
  for (const Delta& delta : deltas) {
    switch (delta.kind) {
      case Delta::Kind::kReasoning:
        formatter_.reasoning(delta.text, std::exchange(pending_, {}), out);
        break;
      case Delta::Kind::kContent:
        formatter_.content(delta.text, std::exchange(pending_, {}), out);
        break;
      case Delta::Kind::kToolCall:
        formatter_.call_begin(delta.text, out);
        break;
      case Delta::Kind::kArguments:
        formatter_.arguments(delta.text, out);
        break;
    }
  }
}

void AnswerInProgress::end(const StreamEvent& event, SseEvents& out) {
  ended_ = true;
  bool limit = event.reason == EndReason::kLength;
  show(text_.finish(limit ? EndCause::kLength : EndCause::kStop), out);
  const OutputParser* parser = text_.parser();
  if (event.reason == EndReason::kFailed) {
    failure_ = ApiError{Fault::kInternal, "the engine could not go on with this request", 0};
  } else if (event.reason == EndReason::kDeadline) {
    failure_ = ApiError{Fault::kTimeout,
                        "the request took longer than the server allows (limits.request_seconds)", 0};
  } else if (event.reason == EndReason::kCancelled && !done_) {  // nobody reads this, or the server ends
    failure_ = ApiError{Fault::kOverloaded, "the server ended this request before it was complete", 0};
  } else if (parser && parser->unusable() && !limit) {  // MAL-9
    failure_ = ApiError{
        Fault::kInternal,
        fmt::format("the model wrote a tool call that cannot be used: {}", parser->unusable()->reason), 0};
  }
  if (failure_) return;

  Finish finish;
  finish.usage = usage_;
  if (text_.stop_string()) {
    finish.ending = Ending::kStopString;
    finish.stop_string = *text_.stop_string();
  } else if (parser && parser->finish_reason() == FinishReason::kToolCalls) {
    finish.ending = Ending::kToolCalls;
  } else if (limit) {
    finish.ending = Ending::kLength;
  }
  ending_ = finish.ending;
  formatter_.finish(finish, out);
}

const char* AnswerInProgress::ending_name() const {
  if (failure_) return "error";
  switch (ending_) {
    case Ending::kStop:
      return "stop";
    case Ending::kStopString:
      return "stop_string";
    case Ending::kLength:
      return "length";
    case Ending::kToolCalls:
      return "tool_calls";
  }
  return "";
}

}  // namespace kvasir
