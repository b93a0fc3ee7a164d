#include "grammar/mask_cache.h"

namespace kvasir {

size_t FrameMask::bytes() const {
  return sizeof *this + (words.size() + tokens.size()) * sizeof(uint32_t) + exits.size() * sizeof(Exit);
}

MaskCache::MaskCache(std::shared_ptr<const Vocabulary> vocabulary, size_t max_bytes)
    : vocabulary_(std::move(vocabulary)), max_bytes_(max_bytes) {}

size_t MaskCache::KeyHash::operator()(const Key& key) const {
  return hash_of(key.frame, static_cast<int32_t>(key.owner));
}

std::shared_ptr<const FrameMask> MaskCache::find(const Key& key) {
  const std::lock_guard lock(mutex_);
  const auto place = places_.find(key);
  if (place == places_.end()) {
    ++misses_;
    return nullptr;
  }
  entries_.splice(entries_.begin(), entries_, place->second);
  return place->second->second;
}

void MaskCache::insert(const Key& key, std::shared_ptr<const FrameMask> mask) {
  constexpr size_t kOverhead = sizeof(Entry) + 64;
  const std::lock_guard lock(mutex_);
  if (places_.contains(key)) return;  // another thread was faster
  bytes_ += mask->bytes() + kOverhead;
  entries_.emplace_front(key, std::move(mask));
  places_.emplace(key, entries_.begin());
  while (bytes_ > max_bytes_ && entries_.size() > 1) {
    bytes_ -= entries_.back().second->bytes() + kOverhead;
    places_.erase(entries_.back().first);
    entries_.pop_back();
  }
}

size_t MaskCache::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

size_t MaskCache::misses() const {
  const std::lock_guard lock(mutex_);
  return misses_;
}

}  // namespace kvasir
