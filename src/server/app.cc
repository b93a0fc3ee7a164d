// Paths, API keys and the handlers that do not generate. See app.h; those that do are in completion.cc.
#include "server/app.h"

#include <fmt/core.h>

#include <boost/asio/post.hpp>

#include <algorithm>
#include <latch>
#include <utility>

#include "server/call.h"

namespace kvasir {
namespace {

// "/v1", "/beta" and "/anthropic" name the same paths as none (protocol 5, 8).
std::string_view strip_base(std::string_view path) {
  for (std::string_view base : {"/anthropic", "/beta", "/v1"}) {
    if (path.starts_with(base) && (path.size() == base.size() || path[base.size()] == '/'))
      path.remove_prefix(base.size());
  }
  return path.empty() ? std::string_view("/") : path;
}

Dialect dialect_of(std::string_view path) {
  if (path.starts_with("/messages")) return Dialect::kMessages;
  if (path.starts_with("/responses")) return Dialect::kResponses;
  if (path.starts_with("/completions")) return Dialect::kCompletions;
  return Dialect::kChat;
}

// A browser sends a page's simple POSTs to any address without asking; it names the page's origin. Programs
// send none.
bool is_foreign_origin(const HttpRequest& http) {
  const std::string *origin = http.header("origin"), *host = http.header("host");
  if (!origin || http.method == "GET" || http.method == "HEAD") return false;
  return !host || *origin != fmt::format("{}://{}", http.tls ? "https" : "http", *host);
}

ApiOptions api_options(const Settings& s, TemplateRevision revision) {
  ApiOptions o;
  o.revision = revision;
  o.limits.json_depth = static_cast<size_t>(s.max_json_depth);
  o.limits.messages = static_cast<size_t>(s.max_messages);
  o.limits.tools = static_cast<size_t>(s.max_tools);
  o.limits.tool_bytes = static_cast<size_t>(s.max_schema_bytes);
  o.other_parts = s.lenient_images ? OtherParts::kPlaceholder : OtherParts::kReject;
  o.require_reasoning = s.strict_reasoning;
  o.refuse_forced_tools = s.strict_tool_choice;
  o.sampling_in_thinking = s.thinking_sampling;
  o.sort_tools = s.sort_tools;
  return o;
}

constexpr size_t kSegmentCacheBytes = size_t{64} << 20;

}  // namespace

HttpResponse json_response(int status, std::string body) {
  return {status, {{"Content-Type", "application/json"}}, std::move(body)};
}

App::App(AppParts parts)
    : parts_(std::move(parts)),
      api_options_(api_options(parts_.settings, parts_.revision)),
      segments_(kSegmentCacheBytes) {
  if (parts_.vocabulary) constraints_.emplace(parts_.vocabulary, parts_.log);
}

App::~App() { text_threads_.join(); }

Task<> App::handle(const HttpRequest& http, ResponseWriter& out) {
  Call call{http, out, "other", dialect_of(strip_base(http.path))};
  const Route* route = nullptr;
  std::optional<ApiError> error = find_route(call, route);
  if (!error && !route->open && !authorised(call))
    error = ApiError{Fault::kUnauthorized, "the API key is missing or not known", 0};
  if (!error && is_foreign_origin(http)) {
    error = ApiError{Fault::kForbidden, "a web page of another origin may not use this server", 0};
  }
  if (error) {
    co_await send_error(call, *error);
  } else if (route->task) {
    co_await (this->*route->task)(call);
  } else {
    HttpResponse response = (this->*route->plain)(call);
    co_await out.send(response);
  }
  parts_.metrics.request(call.endpoint, out.status(),
                         std::chrono::duration<double>(Clock::now() - call.begin).count());
}

std::optional<ApiError> App::find_route(Call& call, const Route*& found) const {
  static constexpr Route kRoutes[] = {
      {"POST", "/chat/completions", "chat", &App::complete, nullptr},
      {"POST", "/responses", "responses", &App::complete, nullptr},
      {"POST", "/messages", "messages", &App::complete, nullptr},
      {"POST", "/messages/count_tokens", "count_tokens", &App::count_tokens, nullptr},
      {"POST", "/completions", "completions", &App::complete, nullptr},
      {"", "/sessions", "sessions", &App::serve_sessions, nullptr},
      {"POST", "/tokenize", "tokenize", nullptr, &App::tokenize},
      {"POST", "/detokenize", "detokenize", nullptr, &App::detokenize},
      {"GET", "/models", "models", nullptr, &App::models},
      {"GET", "/user/balance", "balance", nullptr, &App::balance},
      {"GET", "/metrics", "metrics", nullptr, &App::show_metrics},
      {"GET", "/health", "health", nullptr, &App::health, true},
      {"GET", "/", "root", nullptr, &App::health, true},
  };
  std::string_view path = strip_base(call.http.path);
  bool path_known = false;
  for (const Route& route : kRoutes) {
    bool below = (route.path == "/models" || route.path == "/sessions") && path.starts_with(route.path) &&
                 path.size() > route.path.size() + 1 && path[route.path.size()] == '/';
    if (path != route.path && !below) continue;
    path_known = true;
    bool head = call.http.method == "HEAD" && route.method == "GET";
    if (!route.method.empty() && route.method != call.http.method && !head) continue;
    if (below) call.argument = path.substr(route.path.size() + 1);
    call.endpoint = route.endpoint;
    found = &route;
    return std::nullopt;
  }
  if (path_known)
    return ApiError{Fault::kMethod, fmt::format("{} is not answered at {}", call.http.method, call.http.path),
                    0};
  return ApiError{Fault::kNotFound, fmt::format("no such path: {}", call.http.path), 0};
}

Task<> App::on_text_thread(const std::function<void()>& work) {
  auto done = std::make_shared<std::latch>(1);
  struct Wait {  // a frame that is destroyed before its time holds what `work` uses until it is done
    std::shared_ptr<std::latch> done;
    ~Wait() { done->wait(); }
  };
  Wait wait{done};
  Signal signal;
  boost::asio::post(text_threads_, [&work, done, signal] {
    work();
    done->count_down();
    signal.notify();
  });
  while (!done->try_wait()) co_await signal.wait(std::chrono::seconds(1));
}

bool App::authorised(Call& call) const {
  if (!parts_.keys) return true;
  constexpr std::string_view kBearer = "bearer ";
  std::string_view key;
  if (const std::string* header = call.http.header("x-api-key")) key = *header;
  if (const std::string* header = call.http.header("authorization");
      header && header->size() > kBearer.size() &&
      same_ignoring_case(std::string_view(*header).substr(0, kBearer.size()), kBearer)) {
    key = std::string_view(*header).substr(kBearer.size());
  }
  call.key = parts_.keys->find(key);
  return call.key != nullptr;
}

HttpResponse App::refusal(const HttpError& error) const {
  Fault fault = Fault::kInvalid;
  switch (error.status) {
    case 403:
    case 421:
      fault = Fault::kForbidden;
      break;
    case 408:
      fault = Fault::kTimeout;
      break;
    case 413:
      fault = Fault::kTooLarge;
      break;
    case 500:
      fault = Fault::kInternal;
      break;
    case 503:
      fault = Fault::kOverloaded;
      break;
    default:
      break;
  }
  ApiError told{fault, error.message, 0};
  return json_response(error.status, error_body(told, dialect_of(strip_base(error.path)), error.request_id));
}

HttpResponse App::error_response(const Call& call, const ApiError& error) const {
  HttpResponse response =
      json_response(http_status(error, call.dialect), error_body(error, call.dialect, call.http.id));
  if (error.retry_after_s > 0)
    response.headers.push_back({"Retry-After", std::to_string(error.retry_after_s)});
  if (error.fault == Fault::kUnauthorized) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  parts_.log.info("refused", {{"id", call.http.id},
                              {"endpoint", call.endpoint},
                              {"status", response.status},
                              {"why", error.message}});
  return response;
}

Task<> App::send_error(Call& call, const ApiError& error) {
  HttpResponse response = error_response(call, error);
  co_await call.out.send(response);
}

}  // namespace kvasir
