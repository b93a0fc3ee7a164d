// Slabs, counts and the stack of free pages; see page_pool.h.
#include "cache/page_pool.h"

#include <fmt/core.h>

namespace kvasir {

PagePool::PagePool(int64_t page_bytes, int64_t max_pages, Memory& memory)
    : memory_(&memory), page_bytes_(page_bytes), max_pages_(max_pages) {
  KVASIR_CHECK(page_bytes >= 0 && max_pages >= 0, "page of {} bytes, at most {}", page_bytes, max_pages);
}

Status PagePool::reserve(int64_t pages) {
  if (pages > available_pages()) {
    return Error{ErrorCode::kBusy, fmt::format("{} KV pages of {} bytes are asked for, {} of at most {} are in use", pages, page_bytes_,
                                               allocated_pages(), max_pages_)};
  }
  while (static_cast<int64_t>(free_.size()) < pages) {
    KVASIR_TRY(Buffer slab, memory_->allocate(kSlabPages * page_bytes_, "KV pages"));
    int64_t first = total_pages();
    slabs_.push_back(std::move(slab));
    references_.resize(total_pages(), 0);
    cached_.resize(total_pages(), 0);
    for (int64_t i = kSlabPages - 1; i >= 0; --i) free_.push_back(PageId(static_cast<uint32_t>(first + i)));
  }
  return {};
}

Result<PageId> PagePool::allocate() {
  KVASIR_TRY_STATUS(reserve(1));
  PageId page = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(page)] = 1;
  return page;
}

void PagePool::retain(PageId page) {
  KVASIR_CHECK(references(page) > 0, "page {} is free", static_cast<uint32_t>(page));
  auto id = static_cast<size_t>(page);
  idle_ -= idle(id) ? 1 : 0;
  ++references_[id];
}

void PagePool::release(PageId page) {
  KVASIR_CHECK(references(page) > 0, "page {} is free", static_cast<uint32_t>(page));
  auto id = static_cast<size_t>(page);
  KVASIR_CHECK(!idle(id), "page {} is the cache's and nobody else's", id);
  if (--references_[id] == 0) free_.push_back(page);
  idle_ += idle(id) ? 1 : 0;
}

void PagePool::mark_cached(PageId page, bool cached) {
  KVASIR_CHECK(references(page) > 0, "page {} is free", static_cast<uint32_t>(page));
  auto id = static_cast<size_t>(page);
  idle_ -= idle(id) ? 1 : 0;
  cached_[id] = cached ? 1 : 0;
  idle_ += idle(id) ? 1 : 0;
}

int PagePool::references(PageId page) const {
  auto id = static_cast<int64_t>(page);
  KVASIR_CHECK(id < total_pages(), "page {} of {}", id, total_pages());
  return references_[id];
}

std::byte* PagePool::address(PageId page) const {
  auto id = static_cast<int64_t>(page);
  KVASIR_DCHECK(id < total_pages(), "page {} of {}", id, total_pages());
  return slabs_[id / kSlabPages].data() + id % kSlabPages * page_bytes_;
}

void PagePool::audit() const {
  KVASIR_CHECK(static_cast<int64_t>(references_.size()) == total_pages(), "{} counts for {} pages", references_.size(), total_pages());
  int64_t unreferenced = 0, idle_recount = 0;
  for (int count : references_) {
    KVASIR_CHECK(count >= 0, "a page with {} references", count);
    unreferenced += count == 0 ? 1 : 0;
  }
  KVASIR_CHECK(unreferenced == static_cast<int64_t>(free_.size()), "{} pages without references, {} free", unreferenced, free_.size());
  for (size_t id = 0; id < references_.size(); ++id) {
    KVASIR_CHECK(references_[id] > 0 || cached_[id] == 0, "page {} is free and the cache's", id);
    idle_recount += idle(id) ? 1 : 0;
  }
  KVASIR_CHECK(idle_recount == idle_, "{} idle pages, {} were counted", idle_recount, idle_);
  std::vector<bool> seen(references_.size());
  for (PageId page : free_) {
    auto id = static_cast<size_t>(page);
    KVASIR_CHECK(references_[id] == 0 && !seen[id], "page {} is free with {} references, or free twice", id, references_[id]);
    seen[id] = true;
  }
  KVASIR_CHECK(allocated_pages() <= max_pages_, "{} pages of at most {}", allocated_pages(), max_pages_);
}

}  // namespace kvasir
