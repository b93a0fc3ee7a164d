// App: what each path of the server does. Handlers are coroutines of their connection (style.md, section 5).
//
//   HTTP bytes ─► parse (api) ─► prompt (api, text) ─► Engine::submit ─► TokenStream ─► AnswerInProgress ─►
//   SSE or JSON
//
// Until the first byte of an answer every failure is a JSON error with its status, in the dialect of the
// path; after it, an error event. A client that hangs up ends its sequence within one engine step; what was
// computed stays cached. Large bodies are parsed and encoded on a thread of their own, so that a
// million-token prompt holds up nobody's stream. Threading: handle() on network threads, several at once;
// everything it shares is immutable or guards itself.
#pragma once

#include <boost/asio/thread_pool.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "api/prompt.h"
#include "api/response_formatter.h"
#include "engine/engine.h"
#include "net/http_server.h"
#include "server/api_keys.h"
#include "server/constraints.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/replay_script.h"
#include "server/sessions.h"
#include "server/settings.h"
#include "text/tokenizer.h"

namespace kvasir {

struct SessionInfo;

// Everything that handlers use. Borrowed; outlives the App.
struct AppParts {
  const Settings& settings;
  const Tokenizer& tokenizer;
  Engine& engine;
  Log& log;
  Metrics& metrics;
  const ApiKeys* keys = nullptr;   // null: every key is accepted
  ReplayScript* script = nullptr;  // null: nothing is forced
  ReplayMemory& memory;
  Sessions& sessions;
  std::string model_name;
  TemplateRevision revision = TemplateRevision::kA;
  int32_t end_token = 0;
  int64_t started = 0;                           // seconds since 1970
  int64_t page_bytes = 0;                        // of one KV page
  std::shared_ptr<const Vocabulary> vocabulary;  // null: nothing is constrained
  SignalBatch& news;                             // notified when the engine has told all its readers
};

class App {
 public:
  explicit App(AppParts parts);
  ~App();

  Task<> handle(const HttpRequest& http, ResponseWriter& out);
  // The form of the network's own refusals.
  HttpResponse refusal(const HttpError& error) const;

 private:
  struct Call;      // one request on its way through
  struct Prepared;  // a request that generates
  struct Route {
    std::string_view method, path, endpoint;  // no method: every one
    Task<> (App::*task)(Call&);
    HttpResponse (App::*plain)(Call&);  // one of the two
    bool open = false;                  // answered without a key
  };

  // Sets endpoint and argument of the call.
  std::optional<ApiError> find_route(Call& call, const Route*& found) const;

  // These wait for the engine or the disk ...
  Task<> complete(Call& call);
  Task<> count_tokens(Call& call);
  Task<> serve_sessions(Call& call);
  // ... and these answer at once.
  HttpResponse tokenize(Call& call);
  HttpResponse detokenize(Call& call);
  HttpResponse models(Call& call);
  HttpResponse health(Call& call);
  HttpResponse show_metrics(Call& call);
  HttpResponse balance(Call& call);

  void prepare_now(const Call& call, Prepared& prepared);
  Task<> prepare(const Call& call, Prepared& prepared);
  Request engine_request(const Call& call, Prepared& prepared);
  std::optional<ApiError> submit(Call& call, Prepared& prepared);
  SseEvents take_events(const Call& call, Prepared& prepared);
  std::chrono::steady_clock::duration next_sign_of_life(const Prepared& prepared) const;
  bool sign_of_life_is_due(const Prepared& prepared) const;
  Task<> stream_answer(Call& call, Prepared& prepared);
  Task<> whole_answer(Call& call, Prepared& prepared);
  void settle(Call& call, Prepared& prepared);

  SessionInfo session_info(const SessionRecord& record) const;
  Result<std::vector<SessionRecord>> chosen_sessions(const Call& call) const;
  std::string list_sessions(const Call& call) const;
  Result<std::string> fork_session(const Call& call);
  Result<std::string> save_sessions(const Call& call);
  Result<std::string> delete_sessions(const Call& call);

  bool authorised(Call& call) const;
  // Runs `work` on a text thread and goes on when it is done.
  Task<> on_text_thread(const std::function<void()>& work);
  HttpResponse error_response(const Call& call, const ApiError& error) const;
  Task<> send_error(Call& call, const ApiError& error);

  AppParts parts_;
  ApiOptions api_options_;
  SegmentCache segments_;
  std::optional<Constraints> constraints_;
  boost::asio::thread_pool text_threads_{2};
};

HttpResponse json_response(int status, std::string body);

}  // namespace kvasir
