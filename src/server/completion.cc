// The four paths that generate, and count_tokens: from a body to an answer, streamed or whole.

#include <cstring>
#include <random>
#include <utility>

#include "api/anthropic_messages.h"
#include "api/openai_chat.h"
#include "api/openai_completions.h"
#include "api/openai_responses.h"
#include "base/clock.h"
#include "net/sse.h"
#include "server/answer.h"
#include "server/call.h"

namespace kvasir {
namespace {

// Bodies up to this are read on the network thread: they cost less than a step of the engine.
constexpr size_t kSmallBody = 64 << 10;

Result<ChatRequest> parse(Dialect dialect, std::string_view body, const ApiOptions& options) {
  switch (dialect) {
    case Dialect::kChat:
      return parse_chat(body, options);
    case Dialect::kResponses:
      return parse_responses(body, options);
    case Dialect::kMessages:
      return parse_messages(body, options);
    case Dialect::kCompletions:
      return parse_completion(body, options);
  }
  return Error{ErrorCode::kInvalid, "no such dialect"};
}

uint64_t random_bits() {
  thread_local std::mt19937_64 source{(uint64_t{std::random_device{}()} << 32) | std::random_device{}()};
  return source();
}

std::string random_id() {
  static constexpr std::string_view kLetters =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::string id;
  for (int i = 0; i < 24; ++i) id += kLetters[random_bits() % kLetters.size()];
  return id;
}

ResponseContext response_context(const HttpRequest& http) {
  ResponseContext context;
  context.created = unix_seconds();
  context.fingerprint = "fp_kvasir";
  context.request_id = http.id;
  context.new_id = random_id;
  return context;
}

std::string sse_bytes(const SseEvents& events) {
  std::string bytes;
  for (const SseEvent& event : events)
    bytes += event.comment ? sse_comment(event.data) : sse_event(event.name, event.data);
  return bytes;
}

// Outside coroutines, as net/task.h asks.
std::vector<HttpHeader> json_headers() { return {{"Content-Type", "application/json"}}; }

std::string last_message(const ChatRequest& chat) {
  if (chat.raw) return chat.raw->text;
  return chat.conversation.messages.empty() ? std::string() : chat.conversation.messages.back().content;
}

}  // namespace

void App::prepare_now(const Call& call, Prepared& p) {
  auto chat = parse(call.dialect, call.http.body, api_options_);
  if (!chat) {
    p.error = api_error(chat.error());
    return;
  }
  p.chat = *std::move(chat);
  for (const char* name : {"x-session-id", "x-claude-code-session-id"}) {
    if (const std::string* id = call.http.header(name); id && p.chat.session_id.empty())
      p.chat.session_id = *id;
  }
  PromptOptions options{call.cache_namespace(parts_.settings), &parts_.memory, &segments_};
  auto prompt = build_prompt(p.chat, parts_.tokenizer, options);
  if (!prompt) {
    p.error = api_error(prompt.error());
    return;
  }
  p.prompt = *std::move(prompt);
  Fit fit = fit_max_tokens(p.chat, static_cast<int64_t>(p.prompt.ids.size()), parts_.engine.max_context());
  p.error = std::move(fit.error);
  p.max_tokens = fit.max_tokens;
  if (p.error || !constraints_) return;
  auto constraint = constraints_->make(p.chat, p.prompt.in_reasoning);
  if (constraint) {
    p.constraint = *std::move(constraint);
  } else {
    p.error = api_error(constraint.error());
  }
}

Task<> App::prepare(const Call& call, Prepared& prepared) {
  if (call.http.body.size() <= kSmallBody) {
    prepare_now(call, prepared);
  } else {
    std::function<void()> work = [&] { prepare_now(call, prepared); };
    co_await on_text_thread(work);
  }
}

Request App::engine_request(const Call& call, Prepared& p) {
  Request request;
  request.id = call.http.id;
  request.prompt = p.prompt.ids;
  request.sampling = p.chat.sampling;
  if (!p.chat.has_seed) request.sampling.seed = random_bits();
  request.max_tokens = p.max_tokens;
  request.stop_ids = {parts_.end_token};
  request.priority = p.chat.priority;
  request.system_tokens = p.prompt.system_tokens;
  request.resume_points = p.prompt.resume_points;
  request.cache_namespace = call.cache_namespace(parts_.settings);
  std::string scripted;
  if (parts_.script && parts_.script->take(last_message(p.chat), p.chat.offers_tools(), scripted)) {
    request.script = parts_.tokenizer.encode(scripted);
    request.script.push_back(parts_.end_token);
  } else {
    request.constraint = std::move(p.constraint);
  }
  if (parts_.settings.max_request_seconds > 0) {
    request.deadline = call.begin + std::chrono::duration_cast<Clock::duration>(
                                        std::chrono::duration<double>(parts_.settings.max_request_seconds));
  }
  return request;
}

// Takes the key's slot and hands the request to the engine. An error: neither has happened.
std::optional<ApiError> App::submit(Call& call, Prepared& p) {
  if (p.error) return p.error;
  int64_t limit =
      call.key && call.key->max_streams > 0 ? call.key->max_streams : parts_.settings.max_streams_per_key;
  p.slot.emplace(StreamSlot::take(call.key, limit));
  if (!*p.slot)
    return ApiError{Fault::kRateLimit, "this API key has as many running requests as it may have", 1};
  auto stream = parts_.engine.submit(engine_request(call, p));
  if (!stream)
    return stream.error().code == ErrorCode::kBusy ? overloaded_error(2) : api_error(stream.error());
  p.stream = *std::move(stream);
  p.stream->set_notify([&news = parts_.news, signal = call.out.signal()] { news.add(signal); });
  p.formatter = make_formatter(p.chat, response_context(call.http));
  p.answer = std::make_unique<AnswerInProgress>(p.chat, parts_.tokenizer, p.prompt.in_reasoning,
                                                static_cast<int64_t>(p.prompt.ids.size()), *p.formatter);
  return std::nullopt;
}

Task<> App::complete(Call& call) {
  Prepared p;
  co_await prepare(call, p);
  std::optional<ApiError> error = submit(call, p);
  if (error) {
    co_await send_error(call, *error);
  } else if (p.chat.stream) {
    co_await stream_answer(call, p);
  } else {
    co_await whole_answer(call, p);
  }
}

// What the engine has for the answer by now, as the events to be sent.
SseEvents App::take_events(const Call& call, Prepared& p) {
  SseEvents events;
  StreamEvent event;
  while (!p.answer->ended() && p.stream->try_next(event)) {
    if (event.kind == StreamEvent::Kind::kToken && !std::exchange(p.has_token, true)) {
      parts_.metrics.first_token(std::chrono::duration<double>(Clock::now() - call.begin).count());
    }
    p.answer->push(event, events);
    if (p.answer->needs_no_more()) p.stream->cancel();
  }
  if (!call.out.connected()) p.stream->cancel();
  return events;
}

// Counted from what was sent last, not from the engine's last news: a long prefill has much of that and
// nothing to send.
Clock::duration App::next_sign_of_life(const Prepared& p) const {
  auto interval = std::chrono::duration<double>(parts_.settings.keep_alive_seconds);
  return p.last_sent + std::chrono::duration_cast<Clock::duration>(interval) - Clock::now();
}

bool App::sign_of_life_is_due(const Prepared& p) const {
  return next_sign_of_life(p) <= Clock::duration::zero();
}

Task<> App::stream_answer(Call& call, Prepared& p) {
  SseWriter sse(call.out);
  bool there = co_await sse.begin();
  if (there) co_await sse.comment("kvasir");
  while (!p.answer->ended()) {
    SseEvents events = take_events(call, p);
    if (p.answer->failure()) p.formatter->fail(*p.answer->failure(), events);
    if (events.empty() && !p.answer->ended() && sign_of_life_is_due(p)) p.formatter->keep_alive(events);
    std::string bytes = sse_bytes(events);
    if (!bytes.empty()) {
      p.last_sent = Clock::now();
      co_await call.out.write(bytes);
    }
    if (p.answer->ended()) break;
    co_await call.out.signal().wait(next_sign_of_life(p));
  }
  settle(call, p);
  if (call.out.connected()) co_await sse.finish();
}

Task<> App::whole_answer(Call& call, Prepared& p) {
  while (!p.answer->ended()) {
    take_events(call, p);  // nothing is sent before the end
    if (p.answer->ended()) break;
    bool due = sign_of_life_is_due(p);
    if (due) p.last_sent = Clock::now();
    if (due && call.out.connected()) {
      // A client that waits long sees blank lines before the body (protocol 5.3); until then the status stays
      // open.
      std::vector<HttpHeader> headers = json_headers();
      if (!call.out.started()) co_await call.out.begin(200, headers);
      co_await call.out.write("\n");
    }
    co_await call.out.signal().wait(next_sign_of_life(p));
  }
  settle(call, p);
  if (!call.out.connected()) co_return;
  if (call.out.started()) {
    std::string body = p.answer->failure() ? error_body(*p.answer->failure(), call.dialect, call.http.id)
                                           : p.formatter->whole();
    bool there = co_await call.out.write(body);
    if (there) co_await call.out.finish();
  } else if (p.answer->failure()) {
    co_await send_error(call, *p.answer->failure());
  } else {
    HttpResponse response = json_response(200, p.formatter->whole());
    co_await call.out.send(response);
  }
}

void App::settle(Call& call, Prepared& p) {
  const AnswerInProgress& answer = *p.answer;
  const ResponseFormatter& formatter = *p.formatter;
  const Usage& usage = answer.usage();
  uint64_t cache_namespace = call.cache_namespace(parts_.settings);
  bool gone = !call.out.connected();
  std::string_view ending = gone ? "aborted" : answer.ending_name();
  if (gone) parts_.metrics.aborted();
  parts_.metrics.usage(usage.prompt_tokens, usage.cache.hit_tokens, usage.completion_tokens,
                       usage.reasoning_tokens);

  if (!p.chat.raw && !gone && (ending == "stop" || ending == "tool_calls")) {
    SampledTurn turn;
    turn.tokens = answer.sampled();
    turn.in_reasoning = p.prompt.in_reasoning;
    turn.reasoning = formatter.answer().reasoning;
    turn.content = formatter.answer().content;
    for (const AnswerCall& made : formatter.answer().calls) {
      turn.calls.push_back({made.id, made.prompt_name, JsonValue(made.arguments)});
    }
    parts_.memory.remember(cache_namespace, turn);
  }
  parts_.sessions.touch(cache_namespace, p.chat.session_id, p.prompt.resume_points, std::move(p.prompt.ids),
                        answer.sampled());

  auto tier = usage.cache.tier == CacheTier::kMemory ? "memory"
              : usage.cache.tier == CacheTier::kDisk ? "disk"
                                                     : "none";
  double seconds = std::chrono::duration<double>(Clock::now() - call.begin).count();
  parts_.log.info("completion", {{"id", call.http.id},
                                 {"endpoint", call.endpoint},
                                 {"model", p.chat.model},
                                 {"key", call.key ? call.key->name : std::string("-")},
                                 {"prompt_tokens", usage.prompt_tokens},
                                 {"hit_tokens", usage.cache.hit_tokens},
                                 {"miss_tokens", usage.miss_tokens()},
                                 {"replayed_tokens", usage.cache.replayed_tokens},
                                 {"tier", tier},
                                 {"restore_ms", usage.cache.restore_ms},
                                 {"output_tokens", usage.completion_tokens},
                                 {"reasoning_tokens", usage.reasoning_tokens},
                                 {"tools", static_cast<int64_t>(p.chat.conversation.tools.size())},
                                 {"ending", ending},
                                 {"seconds", seconds}});
  if (parts_.log.prompts()) {
    parts_.log.info("text", {{"id", call.http.id},
                             {"body", call.http.body},
                             {"answer", parts_.tokenizer.decode(answer.sampled())}});
  }
}

Task<> App::count_tokens(Call& call) {
  Prepared p;
  co_await prepare(call, p);
  if (p.error && p.error->fault != Fault::kContextLength) {
    co_await send_error(call, *p.error);
  } else {
    HttpResponse response = json_response(200, token_count_body(static_cast<int64_t>(p.prompt.ids.size())));
    co_await call.out.send(response);
  }
}

}  // namespace kvasir
