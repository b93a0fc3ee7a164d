// SegmentCache: token ids of pieces of prompts that were encoded lately, so that a conversation's next
// request encodes only what is new (TOK-3).
//
// A piece is found by a 128-bit hash of its bytes and protected ranges. Least recently used ones go first.
// Any thread.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/byte_range.h"
#include "text/tokenizer.h"

namespace kvasir {

class SegmentCache {
 public:
  explicit SegmentCache(size_t max_bytes) : max_bytes_(max_bytes) {}

  // Appends the ids of `text` to `ids`. `client_text` as for Tokenizer::encode. One tokenizer per cache.
  void encode(const Tokenizer& tokenizer, std::string_view text, std::span<const ByteRange> client_text,
              std::vector<int32_t>& ids);

  size_t bytes() const;
  int64_t encoded_bytes() const;  // text that was not found

 private:
  struct Key {
    uint64_t high, low;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const { return key.low; }
  };
  struct Entry {
    Key key;
    std::vector<int32_t> ids;
  };
  static size_t bytes_of(const Entry& entry);

  const size_t max_bytes_;
  mutable std::mutex mutex_;
  // All guarded by mutex_. Front: used last.
  std::list<Entry> entries_;
  std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> by_key_;
  size_t bytes_ = 0;
  int64_t encoded_bytes_ = 0;
};

}  // namespace kvasir
