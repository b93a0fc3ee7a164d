// MaskCache: which tokens fit a frame, remembered for every stack that it may stand on.
//
// A token either stays inside the frame and what it opens (the same on every stack), or completes it on the
// way and goes on below. The first kind is a set that is computed once; of the second the cache keeps the
// places in the trie where the frame is complete, and the matcher goes on from there with the stack it has.
// Keys of objects that take any key are split the same way: the set has what stays inside the key, and where
// a key ends it depends on the object what may follow.
//
// Frames of automata are shared by all grammars that use the automaton (every free JSON string is one),
// others belong to their grammar. Bounded; what was not used for longest goes first. Any thread; a mutex
// guards the map, and sets are immutable once they are in it.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "grammar/stack_machine.h"
#include "grammar/vocabulary.h"

namespace kvasir {

struct FrameMask {
  static constexpr uint32_t kRoot = UINT32_MAX;  // before the first symbol

  // Where in the trie the frame is complete or, of a key, decides by itself.
  struct Exit {
    uint32_t node = kRoot;
    int32_t state = 0;  // of the key's automaton
  };

  std::vector<uint32_t> words;  // a bit a token; empty where `tokens` is used
  std::vector<int32_t> tokens;  // when there are few
  std::vector<Exit> exits;

  size_t bytes() const;
};

class MaskCache {
 public:
  MaskCache(std::shared_ptr<const Vocabulary> vocabulary, size_t max_bytes = size_t{64} << 20);

  const Vocabulary& vocabulary() const { return *vocabulary_; }

  struct Key {
    uint64_t owner = 0;  // id of an automaton or a grammar
    Frame frame;

    bool operator==(const Key&) const = default;
  };
  std::shared_ptr<const FrameMask> find(const Key& key);
  void insert(const Key& key, std::shared_ptr<const FrameMask> mask);

  size_t bytes() const;
  size_t misses() const;

 private:
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };
  using Entry = std::pair<Key, std::shared_ptr<const FrameMask>>;

  const std::shared_ptr<const Vocabulary> vocabulary_;
  const size_t max_bytes_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // guarded by mutex_; the newest first
  std::unordered_map<Key, std::list<Entry>::iterator, KeyHash> places_;  // guarded by mutex_
  size_t bytes_ = 0;                                                     // guarded by mutex_
  size_t misses_ = 0;                                                    // guarded by mutex_
};

}  // namespace kvasir
