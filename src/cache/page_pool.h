// PagePool: KV pages of one fixed size in one memory, counted by reference.
//
// Grows by slabs of kSlabPages pages and never moves one, so a page's address is good for as long as it is
// allocated. On the host slabs are anonymous memory: a page costs nothing until it is written. A page is opaque bytes. Sequences
// and the prefix cache share pages: each holds references, and the last one to let go frees the page. A page whose only
// reference is marked as the cache's is idle: nobody reads it, and it can be had back at once.
//
// Invariant: allocated + free == pages in all slabs; a page has references exactly while it is allocated (audit()).
// Threading: unsynchronised; owned by whoever runs the sequences.
#pragma once

#include <vector>

#include "base/result.h"
#include "tensor/memory.h"

namespace kvasir {

enum class PageId : uint32_t {};

class PagePool {
 public:
  static constexpr int64_t kSlabPages = 64;

  // At most `max_pages` pages are allocated at once. `memory` outlives the pool.
  PagePool(int64_t page_bytes, int64_t max_pages, Memory& memory = host_memory());

  // Makes sure that `pages` can be allocated without asking the system. kBusy: the limit or memory is reached.
  Status reserve(int64_t pages);
  // With one reference, the caller's. kBusy when none is left. The page's bytes are whatever its last user left.
  Result<PageId> allocate();
  // One more reference to an allocated page.
  void retain(PageId page);
  // One less; the last one frees the page.
  void release(PageId page);
  int references(PageId page) const;
  // Whether one of the references to an allocated page is the cache's, which takes the mark off before it lets go.
  void mark_cached(PageId page, bool cached);
  std::byte* address(PageId page) const;

  Memory& memory() const { return *memory_; }
  int64_t page_bytes() const { return page_bytes_; }
  int64_t max_pages() const { return max_pages_; }
  int64_t allocated_pages() const { return total_pages() - static_cast<int64_t>(free_.size()); }
  // How many more the limit allows.
  int64_t available_pages() const { return max_pages_ - allocated_pages(); }
  int64_t idle_pages() const { return idle_; }
  int64_t total_pages() const { return static_cast<int64_t>(slabs_.size()) * kSlabPages; }
  // What the slabs take from the system, used or not.
  int64_t held_bytes() const { return total_pages() * page_bytes_; }

  void audit() const;  // aborts on a broken invariant

 private:
  bool idle(size_t page) const { return cached_[page] != 0 && references_[page] == 1; }

  Memory* memory_;
  int64_t page_bytes_;
  int64_t max_pages_;
  std::vector<Buffer> slabs_;
  std::vector<int> references_;  // by page; 0: free
  std::vector<char> cached_;     // by page
  int64_t idle_ = 0;
  std::vector<PageId> free_;     // a stack; lowest page on top after a slab is added
};

}  // namespace kvasir
