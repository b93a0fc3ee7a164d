// Sessions: conversations that the server has seen, by the id their client gave or one made from how they
// begin.
//
// A session is a list of tokens: what its last request sent and what was answered. Its KV lives in the prefix
// cache like everyone's; a session only names it, so that it can be listed, forked, saved and forgotten. The
// least recently used ones go first beyond a number or a size; saved ones are written to the cache folder and
// return after a restart. Any thread.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cache/disk_store.h"
#include "engine/engine.h"

namespace kvasir {

struct SessionRecord {
  std::string id;
  uint64_t cache_namespace = 0;
  std::vector<int32_t> tokens;
  std::string parent;             // forked from; empty: none
  int64_t created = 0, used = 0;  // seconds since 1970
  int64_t requests = 0;
  bool saved = false;
};

struct SessionLimits {
  size_t sessions = 1024;
  size_t token_bytes = size_t{256} << 20;
};

class Sessions {
 public:
  // Both outlive this; `disk` may be null: then nothing can be saved. Reads what was saved.
  Sessions(Engine& engine, DiskStore* disk, SessionLimits limits);

  // After an answer. `id` empty: made from the prompt up to the end of its first user message.
  void touch(uint64_t cache_namespace, const std::string& id, const std::vector<int64_t>& resume_points,
             std::vector<int32_t> prompt, const std::vector<int32_t>& answer);

  // Last used first.
  std::vector<SessionRecord> list(uint64_t cache_namespace) const;
  // A new session of the first `tokens` tokens of `id` (0: all). kNotFound, kInvalid: it is not that long.
  Result<SessionRecord> fork(uint64_t cache_namespace, std::string_view id, int64_t tokens);
  // Its KV and its tokens are on disk and synced when this returns. kUnsupported: there is no disk tier.
  Result<SessionRecord> save(uint64_t cache_namespace, std::string_view id);
  // Sessions whose id is, or with `prefix` begins with, `id`; their KV goes too, where no other session
  // shares it. Returns how many.
  Result<int64_t> remove(uint64_t cache_namespace, std::string_view id, bool prefix);

 private:
  std::list<SessionRecord>::iterator find(uint64_t cache_namespace, std::string_view id);
  void trim();

  Engine& engine_;
  DiskStore* disk_;
  SessionLimits limits_;
  mutable std::mutex mutex_;
  std::list<SessionRecord> records_;  // guarded by mutex_; last used first
  size_t token_bytes_ = 0;            // guarded by mutex_
};

}  // namespace kvasir
