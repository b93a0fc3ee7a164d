// Slabs and the stack of free pages; see page_pool.h.
#include "cache/page_pool.h"

#include <fmt/core.h>

namespace kvasir {

PagePool::PagePool(int64_t page_bytes, int64_t max_pages) : page_bytes_(page_bytes), max_pages_(max_pages) {
  KVASIR_CHECK(page_bytes >= 0 && max_pages >= 0, "page of {} bytes, at most {}", page_bytes, max_pages);
}

Status PagePool::reserve(int64_t pages) {
  while (static_cast<int64_t>(free_.size()) < pages) {
    if (allocated_pages() + pages > max_pages_) {
      return Error{ErrorCode::kBusy, fmt::format("{} KV pages of {} bytes are asked for, {} of at most {} are in use", pages, page_bytes_,
                                                 allocated_pages(), max_pages_)};
    }
    KVASIR_TRY(Buffer slab, Buffer::make(kSlabPages * page_bytes_, "KV pages"));
    int64_t first = total_pages();
    slabs_.push_back(std::move(slab));
    for (int64_t i = kSlabPages - 1; i >= 0; --i) free_.push_back(PageId(static_cast<uint32_t>(first + i)));
  }
  return {};
}

Result<PageId> PagePool::allocate() {
  KVASIR_TRY_STATUS(reserve(1));
  PageId page = free_.back();
  free_.pop_back();
  return page;
}

void PagePool::release(PageId page) {
  KVASIR_CHECK(static_cast<int64_t>(page) < total_pages(), "page {} of {}", static_cast<uint32_t>(page), total_pages());
  free_.push_back(page);
}

std::byte* PagePool::address(PageId page) const {
  auto id = static_cast<int64_t>(page);
  KVASIR_DCHECK(id < total_pages(), "page {} of {}", id, total_pages());
  return slabs_[id / kSlabPages].data() + id % kSlabPages * page_bytes_;
}

}  // namespace kvasir
