// /v1/sessions: list, fork, save and delete (docs/api.md).
#include <fmt/core.h>

#include <algorithm>

#include "api/session_json.h"
#include "model/kv_layout.h"
#include "server/call.h"

namespace kvasir {
namespace {

constexpr const char* kSessionPaths =
    "GET /v1/sessions, POST /v1/sessions/fork, .../save and .../delete, and DELETE /v1/sessions/ID";

}  // namespace

Task<> App::serve_sessions(Call& call) {
  const std::string& method = call.http.method;
  bool list = method == "GET" && call.argument.empty();
  bool fork = method == "POST" && call.argument == "fork";
  bool save = method == "POST" && call.argument == "save";
  bool remove =
      (method == "POST" && call.argument == "delete") || (method == "DELETE" && is_session_id(call.argument));
  Result<std::string> body =
      Error{ErrorCode::kNotFound, fmt::format("{} {}: there are {}", method, call.http.path, kSessionPaths)};
  if (list) {
    body = list_sessions(call);
  } else if (fork || save || remove) {
    // These wait for the engine, and saving for the disk: not on a network thread.
    std::function<void()> work = [&] {
      body = fork ? fork_session(call) : save ? save_sessions(call) : delete_sessions(call);
    };
    co_await on_text_thread(work);
  }
  HttpResponse response =
      body ? json_response(200, *std::move(body)) : error_response(call, api_error(body.error()));
  co_await call.out.send(response);
}

std::string App::list_sessions(const Call& call) const {
  std::vector<SessionInfo> infos;
  for (const SessionRecord& record : parts_.sessions.list(call.cache_namespace(parts_.settings)))
    infos.push_back(session_info(record));
  return session_list_body(infos);
}

SessionInfo App::session_info(const SessionRecord& record) const {
  SessionInfo info;
  info.id = record.id;
  info.model = parts_.model_name;
  info.parent = record.parent;
  info.created = record.created;
  info.last_used = record.used;
  info.tokens = static_cast<int64_t>(record.tokens.size());
  info.bytes = info.tokens * parts_.page_bytes / kPageTokens;
  info.tier = record.saved ? CacheTier::kDisk : CacheTier::kMemory;
  info.saved = record.saved;
  return info;
}

// The sessions that a body means. A chat request means the session of its prompt, known or not.
Result<std::vector<SessionRecord>> App::chosen_sessions(const Call& call) const {
  uint64_t cache_namespace = call.cache_namespace(parts_.settings);
  if (call.http.method == "DELETE")
    return parts_.sessions.find(cache_namespace, call.argument, SessionMatch::kWhole);
  KVASIR_TRY(SessionChoice choice, parse_session_choice(call.http.body, api_options_));
  if (!choice.prompt) {
    bool whole = choice.id_prefix.empty();
    return parts_.sessions.find(cache_namespace, whole ? choice.id : choice.id_prefix,
                                whole ? SessionMatch::kWhole : SessionMatch::kPrefix);
  }
  KVASIR_TRY(Prompt prompt,
             build_prompt(*choice.prompt, parts_.tokenizer, {cache_namespace, &parts_.memory}));
  SessionRecord record;
  record.cache_namespace = cache_namespace;
  record.tokens = std::move(prompt.ids);
  return std::vector<SessionRecord>{std::move(record)};
}

Result<std::string> App::fork_session(const Call& call) {
  KVASIR_TRY(SessionFork fork, parse_session_fork(call.http.body, api_options_));
  KVASIR_TRY(SessionRecord made, parts_.sessions.fork(call.cache_namespace(parts_.settings), fork.id,
                                                      fork.new_id, fork.at_tokens));
  return session_body(session_info(made));
}

Result<std::string> App::save_sessions(const Call& call) {
  KVASIR_TRY(std::vector<SessionRecord> chosen, chosen_sessions(call));
  std::vector<SessionInfo> saved;
  int64_t bytes = 0;
  for (SessionRecord& record : chosen) {
    KVASIR_TRY_STATUS(parts_.sessions.save(record));
    saved.push_back(session_info(record));
    bytes += saved.back().bytes;
  }
  return session_saved_body(saved, bytes);
}

Result<std::string> App::delete_sessions(const Call& call) {
  KVASIR_TRY(std::vector<SessionRecord> chosen, chosen_sessions(call));
  std::vector<std::string> ids;
  int64_t before = parts_.engine.metrics().cache.page_bytes;
  for (const SessionRecord& record : chosen) {
    KVASIR_TRY_STATUS(parts_.sessions.remove(record));
    if (!record.id.empty()) ids.push_back(record.id);
  }
  return session_deleted_body(ids, std::max<int64_t>(0, before - parts_.engine.metrics().cache.page_bytes));
}

}  // namespace kvasir
