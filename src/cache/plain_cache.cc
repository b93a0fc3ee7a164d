// Memory-only stand-in while the prefix cache is being written; replaced by the merge of branch `cache`.
#include <map>
#include "base/check.h"
#include "cache/disk_store.h"
#include "cache/prefix_cache.h"
namespace kvasir {
struct DiskStore::Impl {};
DiskStore::~DiskStore() = default;
using Key = std::pair<uint64_t, std::vector<int32_t>>;
struct PrefixCache::Impl {
  PagePool& pool;
  std::map<Key, PageId> pages;
  std::map<Key, std::vector<std::byte>> snapshots;
  static Key key(PrefixKey k, int64_t n) { return {k.cache_namespace, {k.tokens.begin(), k.tokens.begin() + n}}; }
};
namespace {
struct PlainRestore final : Restore {
  PagePool* pool; std::vector<PageId> pages; int64_t tokens = 0; const std::vector<std::byte>* state = nullptr;
  ~PlainRestore() override { for (auto p : pages) pool->release(p); }
  bool done() override { return true; }
  int sections_ready() const override { return 1 << 20; }
  void wait_section(int) override {}
  int64_t page_tokens() const override { return tokens; }
  CacheTier tier() const override { return CacheTier::kMemory; }
  std::vector<PageId> take_pages() override { return std::exchange(pages, {}); }
  const std::vector<std::byte>* snapshot() const override { return state; }
};
}
PrefixCache::PrefixCache(PagePool& pool, DiskStore*, PrefixCacheOptions) : impl_(new Impl{pool, {}, {}}) {}
PrefixCache::~PrefixCache() { for (auto& [k, p] : impl_->pages) impl_->pool.release(p); }
PrefixMatch PrefixCache::lookup(PrefixKey key, int64_t limit) {
  PrefixMatch m;
  while (m.page_tokens + 128 <= limit && impl_->pages.count(Impl::key(key, m.page_tokens + 128))) m.page_tokens += 128;
  for (int64_t n = 1; n <= limit && n / 128 * 128 <= m.page_tokens; ++n)
    if (impl_->snapshots.count(Impl::key(key, n))) m.points.push_back({n, CacheTier::kMemory});
  return m;
}
Result<std::unique_ptr<Restore>> PrefixCache::restore(PrefixKey key, int64_t page_tokens, int64_t n) {
  auto r = std::make_unique<PlainRestore>();
  r->pool = &impl_->pool;
  r->tokens = page_tokens;
  for (int64_t t = 128; t <= page_tokens; t += 128) { r->pages.push_back(impl_->pages.at(Impl::key(key, t))); impl_->pool.retain(r->pages.back()); }
  if (n) r->state = &impl_->snapshots.at(Impl::key(key, n));
  return std::unique_ptr<Restore>(std::move(r));
}
void PrefixCache::publish(PrefixKey key, int64_t first, std::span<const PageId> pages) {
  for (PageId p : pages) if (impl_->pages.emplace(Impl::key(key, ++first * 128), p).second) impl_->pool.retain(p);
}
void PrefixCache::put_snapshot(PrefixKey key, std::vector<std::byte> state, SnapshotUse) { impl_->snapshots[Impl::key(key, static_cast<int64_t>(key.tokens.size()))] = std::move(state); }
void PrefixCache::drop_snapshot(PrefixKey key) { impl_->snapshots.erase(Impl::key(key, static_cast<int64_t>(key.tokens.size()))); }
void PrefixCache::write_behind(PrefixKey) {}
Status PrefixCache::make_room(int64_t pages) {
  for (auto it = impl_->pages.begin(); it != impl_->pages.end() && impl_->pool.available_pages() < pages;)
    if (impl_->pool.references(it->second) == 1) { impl_->pool.release(it->second); it = impl_->pages.erase(it); } else ++it;
  if (impl_->pool.available_pages() < pages) return Error{ErrorCode::kBusy, "no pages"};
  return impl_->pool.reserve(pages);
}
Status PrefixCache::save(PrefixKey) { return {}; }
void PrefixCache::forget(PrefixKey) {}
Status PrefixCache::flush() { return {}; }
std::vector<PrefixInfo> PrefixCache::list() const { return {}; }
std::vector<int32_t> PrefixCache::tokens_of(SpanHash) const { return {}; }
PrefixCacheMetrics PrefixCache::metrics() const {
  PrefixCacheMetrics m;
  for (auto& [k, p] : impl_->pages) m.idle_pages += impl_->pool.references(p) == 1;
  return m;
}
void PrefixCache::audit() const {}
}
