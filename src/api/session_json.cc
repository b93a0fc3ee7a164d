#include "api/session_json.h"

#include <algorithm>

#include "api/json_fields.h"
#include "api/openai_chat.h"
#include "api/usage.h"
#include "base/json_writer.h"

namespace kvasir {
namespace {

constexpr size_t kMaxIdBytes = 128;
constexpr std::string_view kIdForm = "1 to 128 letters, digits, -, _, . and :";

Result<std::string> read_id(const JsonFields& body, std::string_view key) {
  KVASIR_TRY(std::string id, body.text(key));
  if (!is_session_id(id)) return body.wrong(key, kIdForm);
  return id;
}

void write_session(const SessionInfo& session, JsonWriter& json) {
  json.begin_object()
      .field("id", session.id)
      .field("object", "session")
      .field("model", session.model)
      .key("parent");
  if (session.parent.empty()) {
    json.null();
  } else {
    json.value(session.parent);
  }
  json.field("created", session.created)
      .field("last_used", session.last_used)
      .field("tokens", session.tokens);
  json.field("bytes", session.bytes)
      .field("tier", cache_tier_name(session.tier))
      .field("saved", session.saved);
  json.end_object();
}

void write_sessions(const std::vector<SessionInfo>& sessions, JsonWriter& json) {
  json.begin_array("data");
  for (const SessionInfo& session : sessions) write_session(session, json);
  json.end_array();
}

}  // namespace

bool is_session_id(std::string_view id) {
  return !id.empty() && id.size() <= kMaxIdBytes && std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_.:").find(c) != std::string_view::npos;
  });
}

Result<SessionChoice> parse_session_choice(std::string_view text, const ApiOptions& options) {
  KVASIR_TRY(const JsonValue json, parse_body(text, options.limits));
  const JsonFields body(json, "");
  if (body.has("id") + body.has("id_prefix") + body.has("messages") != 1) {
    return Error{ErrorCode::kInvalid, "body: expected exactly one of \"id\", \"id_prefix\" and \"messages\""};
  }
  SessionChoice choice;
  if (body.has("id")) {
    KVASIR_TRY(choice.id, read_id(body, "id"));
  } else if (body.has("id_prefix")) {
    KVASIR_TRY(choice.id_prefix, read_id(body, "id_prefix"));
  } else {
    KVASIR_TRY(choice.prompt, parse_chat(text, options));
  }
  return choice;
}

Result<SessionFork> parse_session_fork(std::string_view text, const ApiOptions& options) {
  KVASIR_TRY(const JsonValue json, parse_body(text, options.limits));
  const JsonFields body(json, "");
  SessionFork fork;
  KVASIR_TRY(fork.id, read_id(body, "id"));
  if (body.has("new_id")) {
    KVASIR_TRY(fork.new_id, read_id(body, "new_id"));
  }
  KVASIR_TRY(fork.at_tokens, body.integer("at_tokens", 1, INT64_MAX));
  return fork;
}

std::string session_body(const SessionInfo& session) {
  JsonWriter json;
  write_session(session, json);
  return json.text();
}

std::string session_list_body(const std::vector<SessionInfo>& sessions) {
  JsonWriter json;
  json.begin_object().field("object", "list");
  write_sessions(sessions, json);
  json.end_object();
  return json.text();
}

std::string session_deleted_body(const std::vector<std::string>& ids, int64_t freed_bytes) {
  JsonWriter json;
  json.begin_object().field("object", "session.deleted").begin_array("ids");
  for (const std::string& id : ids) json.value(id);
  json.end_array().field("freed_bytes", freed_bytes).end_object();
  return json.text();
}

std::string session_saved_body(const std::vector<SessionInfo>& sessions, int64_t written_bytes) {
  JsonWriter json;
  json.begin_object().field("object", "session.saved");
  write_sessions(sessions, json);
  json.field("written_bytes", written_bytes).end_object();
  return json.text();
}

}  // namespace kvasir
