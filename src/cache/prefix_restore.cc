// Bringing pages and a snapshot back for a sequence; see Restore in prefix_cache.h.
//
// A page on disk gets its place in the tree when its read begins, so that a second restore of the same prefix
// joins the first one's read. Until the read has ended (Span::load) the page is nobody's to evict; if it
// fails, the page is taken out of the tree again, and those who hold a reference see a shorter prefix.
#include <algorithm>

#include "cache/prefix_cache_impl.h"

namespace kvasir {
namespace {

class CacheRestore : public Restore {
 public:
  struct Item {
    PageId page{};
    std::optional<PageLoad> load;
  };

  CacheRestore(PrefixCache::Impl& cache, std::vector<Item> items,
               std::shared_ptr<const std::vector<std::byte>> state, std::shared_ptr<DiskRead> own_read)
      : cache_(cache), items_(std::move(items)), state_(std::move(state)), own_read_(std::move(own_read)) {
    if (own_read_) reads_.push_back(own_read_);
    for (const Item& item : items_) {
      if (item.load && std::ranges::find(reads_, item.load->read) == reads_.end())
        reads_.push_back(item.load->read);
    }
  }
  ~CacheRestore() override {
    for (PageId page : take_pages()) cache_.pool.release(page);
  }

  bool done() override {
    if (!std::ranges::all_of(reads_, [](const auto& read) { return read->done(); })) return false;
    cache_.collect();
    return true;
  }
  int sections_ready() const override {
    // Pages elsewhere than on the host get their bytes in done(), all at once.
    if (!reads_.empty() && !cache_.pool.memory().on_host()) return 0;
    int ready = static_cast<int>(cache_.options.section_bytes.size());
    for (const auto& read : reads_) ready = std::min(ready, read->sections_ready());
    return ready;
  }
  void wait_section(int section) override {
    for (const auto& read : reads_) read->wait_section(section);
  }
  int64_t page_tokens() const override {
    auto lost = std::ranges::find_if(
        items_, [](const Item& item) { return item.load && !item.load->read->arrived(item.load->item); });
    return (lost - items_.begin()) * cache_.options.page_tokens;
  }
  CacheTier tier() const override {
    if (!reads_.empty()) return CacheTier::kDisk;
    return items_.empty() && !state_ ? CacheTier::kNone : CacheTier::kMemory;
  }
  std::vector<PageId> take_pages() override {
    std::vector<PageId> pages;
    if (taken_) return pages;
    taken_ = true;
    for (const Item& item : items_) pages.push_back(item.page);
    return pages;
  }
  const std::vector<std::byte>* snapshot() override {
    if (!state_ && own_read_) state_ = own_read_->snapshot();
    return state_.get();
  }

 private:
  PrefixCache::Impl& cache_;
  std::vector<Item> items_;
  std::vector<std::shared_ptr<DiskRead>> reads_;  // that something here waits for
  std::shared_ptr<const std::vector<std::byte>> state_;
  std::shared_ptr<DiskRead> own_read_;  // the one that brings the snapshot
  bool taken_ = false;
};

}  // namespace

void PrefixCache::Impl::finish_loads() {
  std::erase_if(loading, [&](Span* span) {
    if (!span->load->read->done()) return false;
    bool arrived = span->load->read->arrived(span->load->item);
    if (arrived && span->load->staged) pool.memory().write(pool.address(*span->page), span->load->staged.get(), pool.page_bytes());
    span->load.reset();
    if (arrived) {
      pool.mark_cached(*span->page, true);
      return true;
    }
    let_go(*span);
    tree.prune(span);
    return true;
  });
  std::erase_if(loading_snapshots, [&](const SnapshotLoad& load) {
    if (!load.read->done()) return false;
    auto it = records.find(load.record);  // gone: forgotten, or lost, while it was read
    auto state = load.read->snapshot();
    if (it == records.end() || it->second.snapshot == nullptr || !state || it->second.snapshot->state)
      return true;
    hold(*it->second.snapshot, std::move(state));
    return true;
  });
  trim_snapshots();
}

// Room for what a restore has to read, while what it finds in memory is pinned.
Status PrefixCache::Impl::make_room_for(const PrefixTree::Path& path, size_t spans) {
  std::vector<PageId> pins;
  int64_t missing = 0;
  for (size_t i = 0; i < spans; ++i) {
    if (path.spans[i]->page) {
      pins.push_back(*path.spans[i]->page);
      pool.retain(pins.back());
    } else {
      ++missing;
    }
  }
  Status room = missing > 0 ? make_room(missing) : Status();
  if (room) room = pool.reserve(missing);
  for (PageId page : pins) pool.release(page);
  return room;
}

Result<std::unique_ptr<Restore>> PrefixCache::restore(PrefixKey key, int64_t page_tokens,
                                                      int64_t snapshot_length) {
  Impl& c = *impl_;
  c.collect();
  KVASIR_CHECK(page_tokens >= 0 && page_tokens % c.options.page_tokens == 0 &&
                   page_tokens <= std::ssize(key.tokens) && snapshot_length <= std::ssize(key.tokens),
               "{} tokens of pages and a snapshot at {} for {} tokens", page_tokens, snapshot_length,
               key.tokens.size());
  PrefixKey point{key.cache_namespace, key.tokens.first(snapshot_length)};
  auto walk = [&] {
    return c.tree.walk({key.cache_namespace, key.tokens.first(std::max(page_tokens, snapshot_length))});
  };
  auto run_of = [&](const PrefixTree::Path& p) {
    auto wanted = std::min(static_cast<size_t>(page_tokens / c.options.page_tokens), p.spans.size());
    return std::ranges::find_if_not(p.spans.begin(), p.spans.begin() + static_cast<int64_t>(wanted),
                                    &Span::available) -
           p.spans.begin();
  };
  auto path = walk();
  SnapshotEntry* entry = snapshot_length > 0 ? c.tree.find_snapshot(path, point) : nullptr;
  std::shared_ptr<const std::vector<std::byte>> state =
      entry != nullptr ? entry->state : nullptr;  // held: not evicted now
  KVASIR_TRY_STATUS(c.make_room_for(path, run_of(path)));

  // Making room may have heard of losses on disk, so what there is is looked up again.
  path = walk();
  entry = snapshot_length > 0 ? c.tree.find_snapshot(path, point) : nullptr;
  auto run = static_cast<size_t>(run_of(path));
  std::vector<CacheRestore::Item> items;
  std::vector<DiskStore::PageToRead> reads;
  std::vector<Span*> read_spans;
  std::vector<std::shared_ptr<std::byte[]>> staged;  // of each
  for (size_t i = 0; i < run; ++i) {
    Span& span = *path.spans[i];
    if (!span.page) {
      auto page = c.pool.allocate();
      if (!page) break;  // what is asked for came back smaller: fewer pages
      span.page = *page;
      std::byte* to = c.pool.address(*page);
      staged.push_back(nullptr);
      if (!c.pool.memory().on_host()) {
        staged.back() = std::make_shared<std::byte[]>(static_cast<size_t>(c.pool.page_bytes()));
        to = staged.back().get();
      }
      reads.push_back({span.disk->record, span.disk->slot, to});
      read_spans.push_back(&span);
      c.page_order.advance(1);
    }
    c.pool.retain(*span.page);
    items.push_back({*span.page, span.load});
  }
  std::shared_ptr<DiskRead> read;
  std::optional<RecordId> snapshot_record = entry != nullptr && !state ? entry->record : std::nullopt;
  if (!reads.empty() || snapshot_record) read = c.disk->read(std::move(reads), snapshot_record);
  for (size_t r = 0, i = 0; r < read_spans.size(); ++i) {
    if (path.spans[i] != read_spans[r]) continue;
    items[i].load = read_spans[r]->load = PageLoad{read, r, staged[r]};
    c.loading.push_back(read_spans[r++]);
  }
  if (snapshot_record) c.loading_snapshots.push_back({*snapshot_record, read});
  c.count_hit(path, items.size(), entry);
  return std::unique_ptr<Restore>(
      std::make_unique<CacheRestore>(c, std::move(items), std::move(state), std::move(read)));
}

void PrefixCache::Impl::count_hit(const PrefixTree::Path& path, size_t spans, SnapshotEntry* entry) {
  for (size_t i = 0; i < spans; ++i) ++path.spans[i]->hits;
  if (entry != nullptr) {
    ++entry->hits;
    entry->span->resumed = true;
    use(*entry);
  } else if (spans > 0) {
    path.spans[spans - 1]->resumed = true;
  }
  for (size_t i = 0; i < spans; ++i) use(*path.spans[i]);
  if (disk != nullptr) touch_records(path, spans, entry);
}

}  // namespace kvasir
