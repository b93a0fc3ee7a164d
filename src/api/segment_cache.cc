#include "api/segment_cache.h"

#include <xxhash.h>

namespace kvasir {
namespace {

// Shorter pieces are encoded faster than they are looked up.
constexpr size_t kLeastBytes = 64;
constexpr size_t kEntryOverhead = 96;

}  // namespace

void SegmentCache::encode(const Tokenizer& tokenizer, std::string_view text,
                          std::span<const ByteRange> client_text, std::vector<int32_t>& ids) {
  const bool cached = text.size() >= kLeastBytes;
  Key key{};
  if (cached) {
    const uint64_t ranges = XXH3_64bits(client_text.data(), client_text.size_bytes());
    const XXH128_hash_t hash = XXH3_128bits_withSeed(text.data(), text.size(), ranges);
    key = {hash.high64, hash.low64};
    std::lock_guard lock(mutex_);
    const auto found = by_key_.find(key);
    if (found != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      ids.insert(ids.end(), found->second->ids.begin(), found->second->ids.end());
      return;
    }
  }
  std::vector<int32_t> encoded = tokenizer.encode(text, client_text);
  ids.insert(ids.end(), encoded.begin(), encoded.end());

  std::lock_guard lock(mutex_);
  encoded_bytes_ += static_cast<int64_t>(text.size());
  if (!cached || by_key_.contains(key)) return;  // another thread was faster
  entries_.push_front({key, std::move(encoded)});
  by_key_.emplace(key, entries_.begin());
  bytes_ += bytes_of(entries_.front());
  while (bytes_ > max_bytes_) {
    bytes_ -= bytes_of(entries_.back());
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

size_t SegmentCache::bytes_of(const Entry& entry) {
  return kEntryOverhead + entry.ids.size() * sizeof(int32_t);
}

size_t SegmentCache::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

int64_t SegmentCache::encoded_bytes() const {
  std::lock_guard lock(mutex_);
  return encoded_bytes_;
}

}  // namespace kvasir
