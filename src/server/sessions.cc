// See sessions.h. Saved sessions are notes of the disk store: "session/" + namespace + "/" + id -> tokens.
#include "server/sessions.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/clock.h"

namespace kvasir {
namespace {

constexpr std::string_view kNotePrefix = "session/";

std::string made_id(std::span<const int32_t> opening) {
  return fmt::format("s-{:016x}", XXH3_64bits(opening.data(), opening.size_bytes()));
}

std::string note_key(const SessionRecord& record) {
  return fmt::format("{}{:016x}/{}", kNotePrefix, record.cache_namespace, record.id);
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
    record.created = record.used = unix_seconds();
    record.saved = true;
    token_bytes_ += value.size();
    records_.push_back(std::move(record));
  });
}

std::list<SessionRecord>::iterator Sessions::place_of(uint64_t cache_namespace, std::string_view id) {
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
  // The first resume point ends the first user message.
  size_t opening = resume_points.empty() ? prompt.size() : static_cast<size_t>(resume_points.front());
  std::string name = id.empty() ? made_id(std::span(prompt).first(opening)) : id;
  prompt.insert(prompt.end(), answer.begin(), answer.end());

  std::lock_guard lock(mutex_);
  auto record = place_of(cache_namespace, name);
  if (record == records_.end()) {
    records_.emplace_front();
    record = records_.begin();
    record->id = name;
    record->cache_namespace = cache_namespace;
    record->created = unix_seconds();
  } else {
    records_.splice(records_.begin(), records_, record);
    token_bytes_ -= record->tokens.size() * sizeof(int32_t);
  }
  record->tokens = std::move(prompt);
  record->used = unix_seconds();
  ++record->requests;
  token_bytes_ += record->tokens.size() * sizeof(int32_t);
  trim();
}

std::vector<SessionRecord> Sessions::list(uint64_t cache_namespace) const {
  auto all = find(cache_namespace, "", SessionMatch::kPrefix);
  return all ? *std::move(all) : std::vector<SessionRecord>();
}

Result<std::vector<SessionRecord>> Sessions::find(uint64_t cache_namespace, std::string_view id,
                                                  SessionMatch match) const {
  std::lock_guard lock(mutex_);
  std::vector<SessionRecord> out;
  for (const SessionRecord& record : records_) {
    if (record.cache_namespace != cache_namespace) continue;
    if (match == SessionMatch::kWhole ? record.id == id : record.id.starts_with(id)) out.push_back(record);
  }
  if (out.empty()) return Error{ErrorCode::kNotFound, fmt::format("no session '{}'", id)};
  return out;
}

Result<SessionRecord> Sessions::fork(uint64_t cache_namespace, std::string_view id, std::string new_id,
                                     std::optional<int64_t> tokens) {
  std::lock_guard lock(mutex_);
  auto from = place_of(cache_namespace, id);
  if (from == records_.end()) return Error{ErrorCode::kNotFound, fmt::format("no session '{}'", id)};
  auto length = static_cast<int64_t>(from->tokens.size());
  int64_t wanted = tokens.value_or(length);
  if (wanted < 1 || wanted > length) {
    return Error{
        ErrorCode::kInvalid,
        fmt::format("at_tokens: expected 1 to {}, the length of session '{}', saw {}", length, id, wanted)};
  }
  if (!new_id.empty() && place_of(cache_namespace, new_id) != records_.end()) {
    return Error{ErrorCode::kInvalid, fmt::format("new_id: there is a session '{}' already", new_id)};
  }
  for (int n = 1; new_id.empty() || place_of(cache_namespace, new_id) != records_.end(); ++n)
    new_id = fmt::format("{}-fork-{}", id, n);
  SessionRecord fork;
  fork.id = std::move(new_id);
  fork.cache_namespace = cache_namespace;
  fork.tokens.assign(from->tokens.begin(), from->tokens.begin() + wanted);
  fork.parent = from->id;
  fork.created = fork.used = unix_seconds();
  token_bytes_ += fork.tokens.size() * sizeof(int32_t);
  records_.push_front(fork);
  trim();
  return fork;
}

Status Sessions::save(SessionRecord& record) {
  if (!disk_) return Error{ErrorCode::kUnsupported, "this server keeps no cache on disk (cache.disk)"};
  Status saved;
  int64_t stored = 0, length = std::ssize(record.tokens);
  engine_.call([&](PrefixCache& cache) {
    PrefixKey key{record.cache_namespace, record.tokens};
    saved = cache.save(key);
    stored = cache.lookup(key, length).page_tokens;
  });
  KVASIR_TRY_STATUS(saved);
  if (stored < (length - 1) / kPageTokens * kPageTokens) {  // the last token may never have been computed
    return Error{
        ErrorCode::kNotFound,
        fmt::format("the cache has only the first {} of the {} tokens of session '{}': repeat its last "
                    "request, then save it",
                    stored, length, record.id)};
  }
  record.saved = true;
  if (record.id.empty()) return {};
  KVASIR_TRY_STATUS(disk_->put_note(note_key(record), std::as_bytes(std::span(record.tokens))));
  KVASIR_TRY_STATUS(disk_->flush());
  std::lock_guard lock(mutex_);
  if (auto found = place_of(record.cache_namespace, record.id); found != records_.end()) found->saved = true;
  return {};
}

Status Sessions::remove(const SessionRecord& record) {
  int64_t shared = 0;
  {
    std::lock_guard lock(mutex_);
    if (auto found = place_of(record.cache_namespace, record.id); found != records_.end()) {
      token_bytes_ -= found->tokens.size() * sizeof(int32_t);
      records_.erase(found);
    }
    for (const SessionRecord& other : records_) {
      if (other.cache_namespace != record.cache_namespace) continue;
      auto parted = std::ranges::mismatch(record.tokens, other.tokens).in1;
      shared = std::max<int64_t>(shared, parted - record.tokens.begin());
    }
  }
  engine_.call([&](PrefixCache& cache) { cache.forget({record.cache_namespace, record.tokens}, shared); });
  if (!disk_) return {};
  if (record.saved && !record.id.empty()) KVASIR_TRY_STATUS(disk_->put_note(note_key(record), {}));
  return disk_->flush();  // what was deleted stays deleted, however this process ends
}

}  // namespace kvasir
