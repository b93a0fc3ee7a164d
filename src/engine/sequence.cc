// Growing, rolling back and restoring; see sequence.h.
#include "engine/sequence.h"

namespace kvasir {

Result<Sequence> Sequence::make(const KvLayout& layout, PagePool& pool) {
  KVASIR_TRY(Buffer state, pool.memory().allocate(layout.state_bytes, "the windows and compressor tails of a sequence"));
  return Sequence(BlockTable(pool), std::move(state), layout.page_bytes, pool.memory());
}

Status Sequence::reserve(int64_t tokens) {
  int64_t pages = KvLayout::pages_for(tokens);
  table_.reserve(pages);
  return table_.grow(pages);
}

void Sequence::roll_back(int64_t length) {
  KVASIR_CHECK(length <= length_ && length_ - length <= kRollbackSlack, "roll back from {} to {}", length_, length);
  length_ = length;
}

void Sequence::adopt(std::span<const PageId> pages, int64_t length) {
  KVASIR_CHECK(table_.size() == 0 && length_ == 0, "{} pages and {} tokens before adopting", table_.size(), length_);
  for (PageId page : pages) table_.adopt(page);
  stored_ = static_cast<int64_t>(pages.size()) * kPageTokens;
  length_ = length;
}

void Sequence::take_snapshot(Snapshot& out) const {
  out.length = length_;
  out.state.resize(static_cast<size_t>(state_.size()));
  memory_->read(out.state.data(), state_.data(), state_.size());
}

void Sequence::restore(const Snapshot& snapshot) {
  KVASIR_CHECK(snapshot.length <= length_, "a snapshot of {} tokens for a sequence of {}", snapshot.length, length_);
  length_ = snapshot.length;
  if (length_ == 0) return;
  KVASIR_CHECK(static_cast<int64_t>(snapshot.state.size()) == state_.size(), "a snapshot of {} bytes, the state has {}",
               snapshot.state.size(), state_.size());
  memory_->write(state_.data(), snapshot.state.data(), state_.size());
}

}  // namespace kvasir
