// ApiKeys: who may talk to the server. The file holds SHA-256 hashes, never keys.
//
//   [[key]]
//   name = "ci"              # shows in logs and metrics
//   sha256 = "<64 hex digits>"
//   max_streams = 4          # optional: running requests at once
//
// Keys are 32 random bytes made by `kvasir key`, so a plain hash cannot be searched. A key is found by
// comparing its hash with every entry in constant time: the time taken tells nothing about how much of it was
// right. Immutable after loading, except for the counts of running requests, which are atomic. Any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace kvasir {

using KeyHash = std::array<unsigned char, 32>;

struct ApiKey {
  std::string name;
  KeyHash hash{};
  int64_t max_streams = 0;       // 0: no limit of its own
  uint64_t cache_namespace = 0;  // of its hash, never 0; used if the settings ask for it
  mutable std::atomic<int64_t> running{0};
};

class ApiKeys {
 public:
  // Errors name the file, the line and the key. The file must not be readable by others.
  static Result<std::unique_ptr<ApiKeys>> load(const std::string& file);

  // Null: no such key.
  const ApiKey* find(std::string_view key) const;

 private:
  std::vector<std::unique_ptr<ApiKey>> keys_;
};

KeyHash hash_key(std::string_view key);
// A fresh key, "kv-" and 43 characters of base64url, from the system's random source.
Result<std::string> make_key();
// Appends an entry; the file is made, readable by its owner alone, if it is not there.
Status append_key(const std::string& file, const std::string& name, const KeyHash& hash, int64_t max_streams);

// What a running request holds of its key's limit. Empty: the limit is reached.
class StreamSlot {
 public:
  // `limit` 0: none. `key` may be null: then nothing is counted.
  static StreamSlot take(const ApiKey* key, int64_t limit);
  StreamSlot(StreamSlot&& other) noexcept : key_(other.key_), ok_(other.ok_) { other.key_ = nullptr; }
  StreamSlot& operator=(StreamSlot&&) = delete;
  ~StreamSlot() {
    if (key_) key_->running.fetch_sub(1);
  }
  explicit operator bool() const { return ok_; }

 private:
  StreamSlot(const ApiKey* key, bool ok) : key_(key), ok_(ok) {}
  const ApiKey* key_;
  bool ok_;
};

}  // namespace kvasir
