// The bodies of /v1/sessions: list, fork, save, delete. The server fills and obeys these; here they are only
// read and written. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/chat_request.h"
#include "base/result.h"
#include "engine/request.h"

namespace kvasir {

struct SessionInfo {
  std::string id;
  std::string model;
  std::string parent = {};  // the session that it was forked from
  int64_t created = 0;      // seconds since 1970
  int64_t last_used = 0;
  int64_t tokens = 0;  // of its prefix
  int64_t bytes = 0;   // of its pages and snapshots, shared ones included
  CacheTier tier = CacheTier::kNone;
  bool saved = false;  // by request: kept until deleted
};

// Which sessions a request means: exactly one of the three is given.
struct SessionChoice {
  std::string id;
  std::string id_prefix;              // every session whose id begins so
  std::optional<ChatRequest> prompt;  // what is stored of this chat request's prompt
};

struct SessionFork {
  std::string id;                    // of the session to fork
  std::string new_id;                // empty: the server makes one
  std::optional<int64_t> at_tokens;  // of its prefix; none: all
};

// {"id": ..} or {"id_prefix": ..} or a chat request.
Result<SessionChoice> parse_session_choice(std::string_view body, const ApiOptions& options);
// {"id": .., "new_id": .., "at_tokens": ..}
Result<SessionFork> parse_session_fork(std::string_view body, const ApiOptions& options);
// 1 to 128 letters, digits, '-', '_', '.' and ':'.
bool is_session_id(std::string_view id);

std::string session_body(const SessionInfo& session);
std::string session_list_body(const std::vector<SessionInfo>& sessions);
std::string session_deleted_body(const std::vector<std::string>& ids, int64_t freed_bytes);
std::string session_saved_body(const std::vector<SessionInfo>& sessions, int64_t written_bytes);

}  // namespace kvasir
