// ResponseFormatter: neutral events of one answer in, the bytes of its dialect out.
//
//   begin ─► reasoning* ─► content* ─► (call_begin ─► arguments*)* ─► finish
//     └──────────────── fail, at any time instead of what is left ────┘
//   keep_alive at any time before the end
//
// Streaming, each event appends what is to be sent. Not streaming, nothing is appended and whole() is the
// body after finish. Both write each JSON object by the same function. Tool calls come as the model named
// them; the formatter gives them ids and the client's names. Invariants
//  (1) Once finish or fail has been called, nothing more is appended: exactly one terminal event.
//  (2) The deltas of a stream, joined, are the texts of whole() for the same events.
//  (3) reasoning comes before content, and both before calls (OutputParser sees to it).
// One per request; no threading, clock or randomness of its own.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "api/chat_request.h"
#include "api/errors.h"
#include "api/usage.h"

namespace kvasir {

struct SseEvent {
  std::string name;  // empty: no `event:` line
  std::string data;
  bool comment = false;  // a line `: data`
};
using SseEvents = std::vector<SseEvent>;

struct TokenLogprob {
  std::string bytes;  // of the token; not always whole characters
  double logprob = 0;
  std::vector<std::pair<std::string, double>> top = {};  // best first
};
using Logprobs = std::vector<TokenLogprob>;

struct AnswerCall {
  std::string id;  // what the client answers to: call_.., toolu_..
  std::string prompt_name;
  std::string arguments;
};

// An answer that did not come to its end (shutdown, deadline, fault) ends in fail(), never in one of these.
enum class Ending { kStop, kStopString, kLength, kToolCalls };

struct Finish {
  Ending ending = Ending::kStop;
  std::string stop_string = {};  // which, with kStopString
  Usage usage = {};
};

// Everything of the answer so far; what the replay memory remembers.
struct Answer {
  std::string reasoning;
  std::string content;
  std::vector<AnswerCall> calls;
  Logprobs reasoning_logprobs;
  Logprobs content_logprobs;
};

// 24 random letters and digits, new at each call.
using IdSource = std::function<std::string()>;

struct ResponseContext {
  int64_t created = 0;           // seconds since 1970
  std::string fingerprint = {};  // system_fingerprint of the chat API
  std::string request_id = {};   // named in Anthropic's errors
  IdSource new_id;
};

class ResponseFormatter {
 public:
  virtual ~ResponseFormatter() = default;
  ResponseFormatter(const ResponseFormatter&) = delete;
  ResponseFormatter& operator=(const ResponseFormatter&) = delete;

  // The request was admitted: prompt_tokens and the cache hit are known.
  void begin(const Usage& prompt, SseEvents& out);
  void reasoning(std::string_view text, Logprobs logprobs, SseEvents& out);
  void content(std::string_view text, Logprobs logprobs, SseEvents& out);
  void call_begin(std::string_view prompt_name, SseEvents& out);
  void arguments(std::string_view text, SseEvents& out);  // of the latest call
  void keep_alive(SseEvents& out);
  void finish(const Finish& finish, SseEvents& out);
  // Streaming: the error inside a started stream.
  void fail(const ApiError& error, SseEvents& out);

  // The body of a response that is not streamed; after finish.
  virtual std::string whole() const = 0;

  const Answer& answer() const { return answer_; }
  bool ended() const { return ended_; }

 protected:
  // `request` outlives the formatter.
  ResponseFormatter(const ChatRequest& request, ResponseContext context)
      : request_(request), context_(std::move(context)) {}

  virtual void on_begin(SseEvents& out) = 0;
  virtual void on_reasoning(std::string_view text, const Logprobs& logprobs, SseEvents& out) = 0;
  virtual void on_content(std::string_view text, const Logprobs& logprobs, SseEvents& out) = 0;
  virtual void on_call_begin(SseEvents& out) = 0;
  virtual void on_arguments(std::string_view text, SseEvents& out) = 0;
  virtual void on_keep_alive(SseEvents& out);
  virtual void on_finish(SseEvents& out) = 0;
  virtual void on_fail(const ApiError& error, SseEvents& out) = 0;
  // The id of call number `index`.
  virtual std::string new_call_id(size_t index) = 0;

  // The tool of a call; null for a name nobody offered (MAL-13).
  const OfferedTool* tool_of(const AnswerCall& call) const;
  // The client's name of a call.
  const std::string& client_name(const AnswerCall& call) const;
  bool has_begun() const { return begun_; }

  const ChatRequest& request_;
  ResponseContext context_;
  Answer answer_;
  Usage prompt_;   // as of begin
  Finish finish_;  // as of finish

 private:
  bool begun_ = false;
  bool ended_ = false;
};

// The formatter of request.dialect.
std::unique_ptr<ResponseFormatter> make_formatter(const ChatRequest& request, ResponseContext context);

std::unique_ptr<ResponseFormatter> make_chat_formatter(const ChatRequest& request, ResponseContext context);
std::unique_ptr<ResponseFormatter> make_responses_formatter(const ChatRequest& request,
                                                            ResponseContext context);
std::unique_ptr<ResponseFormatter> make_messages_formatter(const ChatRequest& request,
                                                           ResponseContext context);
std::unique_ptr<ResponseFormatter> make_completion_formatter(const ChatRequest& request,
                                                             ResponseContext context);

}  // namespace kvasir
