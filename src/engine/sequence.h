// Sequence: one conversation's tokens and the memory of its cache.
//
// `length` tokens are in the cache; positions at and beyond it hold nothing that will be read. Rolling
// back is a smaller length, at most kRollbackSlack tokens below the longest the sequence has been since
// its rings were last that short (kv_layout.h says why).
// The layout and the pool outlive the sequence. Threading: owned by one thread.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cache/block_table.h"
#include "model/kv_layout.h"

namespace kvasir {

// What a sequence needs, beside its pages, to go on from some length: its windows and compressor tails.
struct Snapshot {
  int64_t length = 0;  // 0: nothing; a sequence of no tokens needs nothing
  std::vector<std::byte> state;
};

class Sequence {
 public:
  static Result<Sequence> make(const KvLayout& layout, PagePool& pool);

  int64_t length() const { return length_; }
  // Pages for `tokens` tokens in all, and room in the table for them.
  Status reserve(int64_t tokens);
  // The step that just ran wrote `tokens` more.
  void advance(int64_t tokens) { length_ += tokens; }
  // Forgets the tokens from `length` on. `length` >= this->length() - kRollbackSlack.
  void roll_back(int64_t length);
  // Copies the state into `out`, reusing its memory.
  void take_snapshot(Snapshot& out) const;
  // Back to a snapshot of this sequence, however far. Its pages still hold what they held then: tokens after
  // `snapshot.length` wrote later rows only.
  void restore(const Snapshot& snapshot);
  // Empty again, ready for another conversation; its pages stay reserved for it.
  void reset() { length_ = 0; }
  // For a sequence without pages: takes over `pages` (a reference each), which hold the rows of its first
  // pages.size() * kPageTokens tokens, and goes on at `length`. Below stored() steps leave those pages alone.
  void adopt(std::span<const PageId> pages, int64_t length);
  int64_t stored() const { return stored_; }
  std::span<const PageId> page_ids() const { return table_.ids(); }

  // Where the backend computes: for ops.
  std::byte* state() const { return state_.data(); }
  std::byte* const* pages() const { return table_.addresses(); }
  // The address of one page, for whoever copies it.
  std::byte* page(int64_t i) const { return table_.host_addresses()[i]; }
  int64_t page_count() const { return table_.size(); }
  Memory& memory() const { return *memory_; }
  // Bytes that this sequence really holds: pages + state.
  int64_t held_bytes() const { return table_.size() * page_bytes_ + state_.size(); }

 private:
  Sequence(BlockTable table, Buffer state, int64_t page_bytes, Memory& memory)
      : memory_(&memory), table_(std::move(table)), state_(std::move(state)), page_bytes_(page_bytes) {}

  Memory* memory_;
  BlockTable table_;
  Buffer state_;
  int64_t page_bytes_;
  int64_t length_ = 0;
  int64_t stored_ = 0;
};

}  // namespace kvasir
