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

class AnswerInProgress;
class ResponseFormatter;
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
  struct Prepared;  // a request that was read, with its prompt

  Task<> complete(Call& call);
  Task<> count_tokens(Call& call);
  Task<> tokenize(Call& call);
  Task<> detokenize(Call& call);
  Task<> models(Call& call);
  Task<> health(Call& call);
  Task<> show_metrics(Call& call);
  Task<> balance(Call& call);
  Task<> serve_sessions(Call& call);

  SessionInfo session_info(const SessionRecord& record) const;
  Result<std::vector<SessionRecord>> chosen_sessions(const Call& call) const;
  Result<std::string> fork_session(const Call& call);
  Result<std::string> save_sessions(const Call& call);
  Result<std::string> delete_sessions(const Call& call);

  // Runs `work` on the text thread and goes on when it is done.
  Task<> on_text_thread(std::function<void()> work);
  Task<> send(Call& call, int status, const char* type, std::string body);
  Task<> send_json(Call& call, int status, std::string body);
  Task<> send_error(Call& call, const ApiError& error);
  HttpResponse error_response(const Call& call, const ApiError& error) const;
  bool authorised(Call& call) const;
  Task<Prepared> prepare(const Call& call);
  Prepared prepare_now(const Call& call);
  Request engine_request(const Call& call, Prepared& prepared);
  Task<> stream_answer(Call& call, Prepared& prepared, TokenStream& stream);
  Task<> whole_answer(Call& call, Prepared& prepared, TokenStream& stream);
  void settle(Call& call, Prepared& prepared, const AnswerInProgress& answer,
              const ResponseFormatter& formatter);

  AppParts parts_;
  ApiOptions api_options_;
  SegmentCache segments_;
  std::optional<Constraints> constraints_;
  boost::asio::thread_pool text_thread_{1};
};

}  // namespace kvasir
