// BlockTable: the pages of one sequence, oldest first, and their addresses as ops want them.
//
// Owns its pages: they go back to the pool when the table is cleared or dies. The pool outlives it.
#pragma once

#include <vector>

#include "cache/page_pool.h"

namespace kvasir {

class BlockTable {
 public:
  explicit BlockTable(PagePool& pool) : pool_(&pool) {}
  ~BlockTable() { truncate(0); }
  BlockTable(BlockTable&& other) noexcept;
  BlockTable& operator=(BlockTable&&) = delete;

  // Grows to `pages` pages; on error the table is as before.
  Status grow(int64_t pages);
  // Shrinks to `pages` pages; the rest return to the pool.
  void truncate(int64_t pages);
  // Room in the table itself for `pages`, so that growing later allocates nothing.
  void reserve(int64_t pages);

  int64_t size() const { return static_cast<int64_t>(ids_.size()); }
  std::byte* const* addresses() const { return addresses_.data(); }

 private:
  PagePool* pool_;
  std::vector<PageId> ids_;
  std::vector<std::byte*> addresses_;
};

}  // namespace kvasir
