#include "engine/sequence.h"

namespace kvasir {

Result<Sequence> Sequence::make(const KvLayout& layout, PagePool& pool) {
  KVASIR_TRY(Buffer state, Buffer::make(layout.state_bytes, "the windows and compressor tails of a sequence"));
  return Sequence(BlockTable(pool), std::move(state), layout.page_bytes);
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

}  // namespace kvasir
