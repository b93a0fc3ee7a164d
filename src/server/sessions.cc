// See sessions.h. Saved sessions are notes of the disk store: "session/" + namespace + "/" + id -> tokens.
#include "server/sessions.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

namespace kvasir {
namespace {

constexpr std::string_view kNotePrefix = "session/";

int64_t now_seconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string made_id(std::span<const int32_t> opening) {
  return fmt::format("s-{:016x}", XXH3_64bits(opening.data(), opening.size_bytes()));
}

std::string note_key(const SessionRecord& record) {
  return fmt::format("{}{:016x}/{}", kNotePrefix, record.cache_namespace, record.id);
}

Error not_found(std::string_view id) {
  return Error{ErrorCode::kNotFound, fmt::format("no session '{}'", id)};
}

}  // namespace

Sessions::Sessions(Engine& engine, DiskStore* disk, SessionLimits limits)
    : engine_(engine), disk_(disk), limits_(limits) {
  if (!disk_) return;
  disk_->for_each_note([&](std::string_view key, std::span<const std::byte> value) {
    constexpr size_t kNamespaceDigits = 16;
    if (!key.starts_with(kNotePrefix) || key.size() <= kNotePrefix.size() + kNamespaceDigits + 1 ||
        value.size() % sizeof(int32_t) != 0)
      return;
    SessionRecord record;
    record.cache_namespace =
        std::strtoull(std::string(key.substr(kNotePrefix.size(), kNamespaceDigits)).c_str(), nullptr, 16);
    record.id = key.substr(kNotePrefix.size() + kNamespaceDigits + 1);
    record.tokens.resize(value.size() / sizeof(int32_t));
    std::memcpy(record.tokens.data(), value.data(), value.size());
    record.created = record.used = now_seconds();
    record.saved = true;
    token_bytes_ += value.size();
    records_.push_back(std::move(record));
  });
}

std::list<SessionRecord>::iterator Sessions::find(uint64_t cache_namespace, std::string_view id) {
  return std::find_if(records_.begin(), records_.end(), [&](const SessionRecord& r) {
    return r.cache_namespace == cache_namespace && r.id == id;
  });
}

void Sessions::trim() {
  while (records_.size() > 1 && (records_.size() > limits_.sessions || token_bytes_ > limits_.token_bytes)) {
    token_bytes_ -= records_.back().tokens.size() * sizeof(int32_t);
    records_.pop_back();
  }
}

void Sessions::touch(uint64_t cache_namespace, const std::string& id,
                     const std::vector<int64_t>& resume_points, std::vector<int32_t> prompt,
                     const std::vector<int32_t>& answer) {
  size_t opening = prompt.size();
  for (int64_t point : resume_points) {  // the second ends the first user message
    if (point != resume_points.front()) {
      opening = std::min(opening, static_cast<size_t>(point));
      break;
    }
  }
  std::string name = id.empty() ? made_id(std::span(prompt).first(opening)) : id;
  prompt.insert(prompt.end(), answer.begin(), answer.end());

  std::lock_guard lock(mutex_);
  auto record = find(cache_namespace, name);
  if (record == records_.end()) {
    records_.emplace_front();
    record = records_.begin();
    record->id = name;
    record->cache_namespace = cache_namespace;
    record->created = now_seconds();
  } else {
    records_.splice(records_.begin(), records_, record);
    token_bytes_ -= record->tokens.size() * sizeof(int32_t);
  }
  record->tokens = std::move(prompt);
  record->used = now_seconds();
  ++record->requests;
  token_bytes_ += record->tokens.size() * sizeof(int32_t);
  trim();
}

std::vector<SessionRecord> Sessions::list(uint64_t cache_namespace) const {
  std::lock_guard lock(mutex_);
  std::vector<SessionRecord> out;
  for (const SessionRecord& record : records_) {
    if (record.cache_namespace != cache_namespace) continue;
    out.push_back(record);
  }
  return out;
}

Result<SessionRecord> Sessions::fork(uint64_t cache_namespace, std::string_view id, int64_t tokens) {
  std::lock_guard lock(mutex_);
  auto from = find(cache_namespace, id);
  if (from == records_.end()) return not_found(id);
  auto length = static_cast<int64_t>(from->tokens.size());
  if (tokens < 0 || tokens > length) {
    return Error{
        ErrorCode::kInvalid,
        fmt::format("tokens: expected 1 to {}, the length of session '{}', saw {}", length, id, tokens)};
  }
  SessionRecord fork;
  for (int n = 1; fork.id.empty() || find(cache_namespace, fork.id) != records_.end(); ++n)
    fork.id = fmt::format("{}-fork-{}", id, n);
  fork.cache_namespace = cache_namespace;
  fork.tokens.assign(from->tokens.begin(), from->tokens.begin() + (tokens == 0 ? length : tokens));
  fork.parent = from->id;
  fork.created = fork.used = now_seconds();
  token_bytes_ += fork.tokens.size() * sizeof(int32_t);
  records_.push_front(fork);
  trim();
  return fork;
}

Result<SessionRecord> Sessions::save(uint64_t cache_namespace, std::string_view id) {
  SessionRecord record;
  {
    std::lock_guard lock(mutex_);
    auto found = find(cache_namespace, id);
    if (found == records_.end()) return not_found(id);
    record = *found;
  }
  if (!disk_) return Error{ErrorCode::kUnsupported, "this server keeps no cache on disk (cache.disk)"};
  Status saved;
  engine_.call([&](PrefixCache& cache) { saved = cache.save({cache_namespace, record.tokens}); });
  if (!saved) return saved.error();
  KVASIR_TRY_STATUS(disk_->put_note(note_key(record), std::as_bytes(std::span(record.tokens))));
  std::lock_guard lock(mutex_);
  if (auto found = find(cache_namespace, id); found != records_.end()) found->saved = true;
  record.saved = true;
  return record;
}

Result<int64_t> Sessions::remove(uint64_t cache_namespace, std::string_view id, bool prefix) {
  std::vector<SessionRecord> gone;
  {
    std::lock_guard lock(mutex_);
    for (auto at = records_.begin(); at != records_.end();) {
      bool match = at->cache_namespace == cache_namespace && (prefix ? at->id.starts_with(id) : at->id == id);
      if (!match) {
        ++at;
        continue;
      }
      token_bytes_ -= at->tokens.size() * sizeof(int32_t);
      gone.push_back(std::move(*at));
      at = records_.erase(at);
    }
  }
  if (gone.empty()) return not_found(id);
  for (const SessionRecord& record : gone) {
    engine_.call([&](PrefixCache& cache) { cache.forget({cache_namespace, record.tokens}); });
    if (record.saved && disk_) KVASIR_TRY_STATUS(disk_->put_note(note_key(record), {}));
  }
  return static_cast<int64_t>(gone.size());
}

}  // namespace kvasir
