// Growing and giving back; see block_table.h.
#include "cache/block_table.h"

namespace kvasir {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_), ids_(std::move(other.ids_)), addresses_(std::move(other.addresses_)) {
  other.ids_.clear();
  other.addresses_.clear();
}

Status BlockTable::grow(int64_t pages) {
  if (pages <= size()) return {};
  KVASIR_TRY_STATUS(pool_->reserve(pages - size()));
  while (size() < pages) {
    KVASIR_TRY(PageId page, pool_->allocate());
    adopt(page);
  }
  return {};
}

void BlockTable::adopt(PageId page) {
  ids_.push_back(page);
  addresses_.push_back(pool_->address(page));
}

void BlockTable::truncate(int64_t pages) {
  while (size() > pages) {
    pool_->release(ids_.back());
    ids_.pop_back();
    addresses_.pop_back();
  }
}

void BlockTable::reserve(int64_t pages) {
  ids_.reserve(pages);
  addresses_.reserve(pages);
}

}  // namespace kvasir
