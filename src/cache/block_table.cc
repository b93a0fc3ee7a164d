// Growing and giving back; see block_table.h.
#include "cache/block_table.h"

#include <algorithm>

namespace kvasir {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : pool_(other.pool_),
      ids_(std::move(other.ids_)),
      addresses_(std::move(other.addresses_)),
      copy_(std::move(other.copy_)),
      copied_(other.copied_) {
  other.ids_.clear();
  other.addresses_.clear();
}

Status BlockTable::grow(int64_t pages) {
  if (pages > size()) KVASIR_TRY_STATUS(pool_->reserve(pages - size()));
  int64_t before = size();
  while (size() < pages) {
    KVASIR_TRY(PageId page, pool_->allocate());
    adopt(page);
  }
  Status status = copy_addresses();
  if (!status) truncate(before);
  return status;
}

Status BlockTable::copy_addresses() {
  Memory& memory = pool_->memory();
  if (memory.on_host() || copied_ == size()) return {};
  constexpr int64_t kEntry = sizeof(std::byte*);
  if (copy_.size() < size() * kEntry) {
    auto room = static_cast<int64_t>(addresses_.capacity());
    KVASIR_TRY(copy_, memory.allocate(room * kEntry, "the block table of a sequence"));
    copied_ = 0;
  }
  memory.write(copy_.data() + copied_ * kEntry, addresses_.data() + copied_, (size() - copied_) * kEntry);
  copied_ = size();
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
  copied_ = std::min(copied_, size());
}

void BlockTable::reserve(int64_t pages) {
  ids_.reserve(pages);
  addresses_.reserve(pages);
}

}  // namespace kvasir
