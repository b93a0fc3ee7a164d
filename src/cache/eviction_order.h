// EvictionOrder: which entry of a tier goes first.
//
// Priority of an entry = the clock when it was last used + half_life * log2(worth); the lowest goes first.
// The clock counts what was put in, in the unit of the budget, so age is measured in turnovers of the cache
// and not in seconds; and since every worth halves at the same rate, the order of two entries never changes
// until one is used again: a sorted set does. Guarded entries (prefixes that were used again) go after all
// others, so that requests which come once, however many, never push them out; but at most kGuardedShare of
// the budget is guarded, the lowest fall back to the others, so that what was popular yesterday cannot starve
// what begins today. Threading: owned by its cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>

#include "base/check.h"

namespace kvasir {

// What an entry carries for its order.
struct Standing {
  double priority = 0;
  double used = 0;    // the clock then
  int64_t depth = 0;  // among equals the deeper goes first: leaves before parents
  int64_t size = 0;
  bool guarded = false;
  bool listed = false;
};

// `Entry` has a member `Standing standing`.
template <class Entry>
class EvictionOrder {
 public:
  static constexpr double kGuardedShare = 0.75;

  explicit EvictionOrder(int64_t budget)
      : half_life_(static_cast<double>(budget)),
        guarded_limit_(static_cast<double>(budget) * kGuardedShare) {}
  EvictionOrder(const EvictionOrder&) = delete;
  EvictionOrder& operator=(const EvictionOrder&) = delete;

  // So much was put in.
  void advance(int64_t size) { clock_ += static_cast<double>(size); }

  // Enters `entry`, or moves it to where it belongs after being used now.
  void use(Entry& entry, int64_t size, int64_t depth, double worth, bool guard) {
    take_out(entry);
    entry.standing = {clock_ + half_life_ * std::log2(worth), clock_, depth, size, guard, true};
    put_in(entry);
    while (guarded_size_ > guarded_limit_) {
      Entry& lowest = **guarded_.begin();
      take_out(lowest);
      lowest.standing.guarded = false;
      lowest.standing.priority =
          std::min(lowest.standing.priority, lowest.standing.used);  // an equal among those that came once
      lowest.standing.listed = true;
      put_in(lowest);
    }
  }
  void remove(Entry& entry) { take_out(entry); }

  // The first for which `accept` holds, or null.
  template <class Accept>
  Entry* first(Accept accept) const {
    for (const auto* order : {&plain_, &guarded_}) {
      for (Entry* entry : *order) {
        if (accept(*entry)) return entry;
      }
    }
    return nullptr;
  }

  int64_t count() const { return static_cast<int64_t>(plain_.size() + guarded_.size()); }
  int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  struct Before {
    bool operator()(const Entry* a, const Entry* b) const {
      if (a->standing.priority != b->standing.priority) return a->standing.priority < b->standing.priority;
      if (a->standing.depth != b->standing.depth) return a->standing.depth > b->standing.depth;
      return a->serial < b->serial;  // not the address: the order must not depend on the allocator
    }
  };

  void put_in(Entry& entry) {
    Standing& s = entry.standing;
    (s.guarded ? guarded_ : plain_).insert(&entry);
    if (s.guarded) guarded_size_ += static_cast<double>(s.size);
    size_ += static_cast<double>(s.size);
  }
  void take_out(Entry& entry) {
    Standing& s = entry.standing;
    if (!s.listed) return;
    size_t erased = (s.guarded ? guarded_ : plain_).erase(&entry);
    KVASIR_CHECK(erased == 1, "{} entries where one is listed", erased);
    if (s.guarded) guarded_size_ -= static_cast<double>(s.size);
    size_ -= static_cast<double>(s.size);
    s.listed = false;
  }

  double half_life_;
  double guarded_limit_;
  double clock_ = 0;
  double guarded_size_ = 0;
  double size_ = 0;
  std::set<Entry*, Before> plain_, guarded_;
};

}  // namespace kvasir
