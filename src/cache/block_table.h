// BlockTable: the pages of one sequence, oldest first, and their addresses as ops want them.
//
// Holds one reference to each of its pages and lets go of it when the table shrinks or dies. The first pages may be
// shared with other tables and the prefix cache (adopted); those are only read. Where the pool's memory is not the
// host's, a copy of the addresses is kept there. The pool outlives it.
#pragma once

#include <span>
#include <vector>

#include "cache/page_pool.h"

namespace kvasir {

class BlockTable {
 public:
  explicit BlockTable(PagePool& pool) : pool_(&pool) {}
  ~BlockTable() { truncate(0); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&&) = delete;

  // Grows to `pages` pages with pages of its own, and brings addresses() up to date. After an error the table has no
  // page more than before.
  Status grow(int64_t pages);
  // Appends a page of which the caller hands over one reference. addresses() has it after the next grow().
  void adopt(PageId page);
  // Shrinks to `pages` pages; its references to the rest return to the pool.
  void truncate(int64_t pages);
  // Room in the table itself for `pages`, so that growing later allocates nothing.
  void reserve(int64_t pages);

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  std::span<const PageId> ids() const { return ids_; }
  // For ops: an array in the pool's memory.
  std::byte* const* addresses() const {
    return copy_.data() ? reinterpret_cast<std::byte* const*>(copy_.data()) : addresses_.data();
  }
  // For the host: the same addresses.
  std::span<std::byte* const> host_addresses() const { return addresses_; }

 private:
  Status copy_addresses();

  PagePool* pool_;
  std::vector<PageId> ids_;
  std::vector<std::byte*> addresses_;
  Buffer copy_;         // of addresses_, in memory that is not the host's
  int64_t copied_ = 0;  // its first entries are up to date
};

}  // namespace kvasir
