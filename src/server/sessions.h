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
#include <optional>
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

enum class SessionMatch { kWhole, kPrefix };

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
  // Those whose id is, or begins with, `id`. kNotFound: none.
  Result<std::vector<SessionRecord>> find(uint64_t cache_namespace, std::string_view id,
                                          SessionMatch match) const;
  // A session of the first `tokens` tokens of `id`, all if not given; `new_id` empty: one is made. kNotFound;
  // kInvalid: it is not that long, or `new_id` is taken.
  Result<SessionRecord> fork(uint64_t cache_namespace, std::string_view id, std::string new_id,
                             std::optional<int64_t> tokens);
  // Its KV and, if it has an id, its tokens are on disk and synced when this returns; sets record.saved.
  // kUnsupported: there is no disk tier. kNotFound: the cache no longer has all of it. Waits for the engine
  // and the disk.
  Status save(SessionRecord& record);
  // Its KV goes too, where no other session shares it, for good when this returns. Waits for the engine and
  // the disk.
  Status remove(const SessionRecord& record);

 private:
  std::list<SessionRecord>::iterator place_of(uint64_t cache_namespace, std::string_view id);
  void trim();

  Engine& engine_;
  DiskStore* disk_;
  SessionLimits limits_;
  mutable std::mutex mutex_;
  std::list<SessionRecord> records_;  // guarded by mutex_; last used first
  size_t token_bytes_ = 0;            // guarded by mutex_
};

}  // namespace kvasir
