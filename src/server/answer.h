// Answer in progress: the engine's events of one request in, the formatter's events out.
//
// Counts what usage reports, keeps the sampled ids for exact replay, and says when nothing more can be shown.
// One per request; the connection's strand.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "api/response_formatter.h"
#include "engine/request.h"
#include "text/answer_text.h"

namespace kvasir {

class AnswerInProgress {
 public:
  // All outlive this. `in_reasoning`: the prompt ended inside a reasoning.
  AnswerInProgress(const ChatRequest& request, const Tokenizer& tokenizer, bool in_reasoning,
                   int64_t prompt_tokens, ResponseFormatter& formatter);

  // Appends what is to be sent. After the event of kind kEnd, or once `failure` is set, there is nothing
  // more.
  void push(const StreamEvent& event, SseEvents& out);

  // What still could be sampled would not be shown: the sequence may be cancelled.
  bool needs_no_more() const { return text_.is_done(); }
  bool ended() const { return ended_; }
  // The answer cannot be completed; nothing was appended for it.
  const std::optional<ApiError>& failure() const { return failure_; }

  const Usage& usage() const { return usage_; }
  const std::vector<int32_t>& sampled() const { return sampled_; }
  const OutputParser* parser() const { return text_.parser(); }
  const char* ending_name() const;

 private:
  void token(const SampledToken& token, SseEvents& out);
  void end(const StreamEvent& event, SseEvents& out);
  void show(const std::vector<Delta>& deltas, SseEvents& out);

  const ChatRequest& request_;
  const Tokenizer& tokenizer_;
  ResponseFormatter& formatter_;
  AnswerText text_;
  Usage usage_;
  Logprobs pending_;  // of tokens whose text has not been shown yet
  bool in_reasoning_;
  TokenId end_of_thinking_;
  std::vector<int32_t> sampled_;
  bool done_ = false;  // needs_no_more() was seen: later tokens belong to no answer
  bool ended_ = false;
  Ending ending_ = Ending::kStop;
  std::optional<ApiError> failure_;
};

}  // namespace kvasir
