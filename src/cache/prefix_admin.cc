// Forgetting, listing and the audit; see prefix_cache_impl.h.
#include <algorithm>
#include <set>

#include "cache/prefix_cache_impl.h"

namespace kvasir {

void PrefixCache::Impl::drop_from_disk(Span& span) {
  if (span.writing) {
    auto& spans = writes.at(*span.writing).spans;
    std::ranges::replace(spans, &span, nullptr);
    span.writing.reset();
  }
  if (!span.disk) return;
  auto record = records.find(span.disk->record);
  disk->drop(span.disk->record, uint64_t{1} << span.disk->slot);
  record->second.spans[span.disk->slot] = nullptr;
  if (record->second.empty()) records.erase(record);
  span.disk.reset();
}

void PrefixCache::Impl::drop_from_disk(SnapshotEntry& entry) {
  if (entry.writing) writes.at(*entry.writing).snapshot = nullptr;
  entry.writing.reset();
  if (!entry.record) return;
  disk->drop(*entry.record, 1);
  records.erase(*entry.record);
  entry.record.reset();
}

void PrefixCache::Impl::forget(SnapshotEntry& entry) {
  drop_from_disk(entry);
  if (entry.state) let_go(entry);
  Span* span = entry.span;
  std::erase_if(span->snapshots, [&](const auto& e) { return e.get() == &entry; });
}

void PrefixCache::Impl::forget(Span& span) {
  while (!span.snapshots.empty()) forget(*span.snapshots.back());
  drop_from_disk(span);
  if (!span.page) return;
  // Its memory may be used again at once, so a read into it must be over.
  if (span.load) span.load->read->wait();
  span.load.reset();
  std::erase(loading, &span);
  let_go(span);
}

void PrefixCache::forget(PrefixKey key, int64_t keep) {
  Impl& c = *impl_;
  c.collect();
  if (keep >= std::ssize(key.tokens)) return;
  auto full = static_cast<size_t>(std::ssize(key.tokens) / c.options.page_tokens);
  auto path = c.tree.walk(key);
  if (path.root == nullptr || path.spans.size() < full) return;

  // What begins with the prompt: below its last full span, where the tokens after that span agree.
  std::vector<Span*> doomed;
  auto tail = key.tokens.subspan(full * c.options.page_tokens);
  for (Span* child : path.last()->children) {
    if (std::ranges::equal(std::span(child->tokens).first(tail.size()), tail)) doomed.push_back(child);
  }
  for (size_t i = 0; i < doomed.size(); ++i)
    doomed.insert(doomed.end(), doomed[i]->children.begin(), doomed[i]->children.end());
  std::reverse(doomed.begin(), doomed.end());
  std::set<const Span*> gone(doomed.begin(), doomed.end());

  // Then upwards along it, until another prompt goes the same way.
  std::vector<SnapshotEntry*> entries;
  for (size_t depth = full + 1; depth-- > 0;) {
    Span* span = depth == 0 ? path.root : path.spans[depth - 1];
    auto rest = key.tokens.subspan(depth * c.options.page_tokens);
    std::vector<SnapshotEntry*> own;
    for (const auto& entry : span->snapshots) {
      auto n = std::min(entry->tail.size(), rest.size());
      if (std::ranges::equal(std::span(entry->tail).first(n), rest.first(n))) own.push_back(entry.get());
    }
    bool shared = own.size() < span->snapshots.size() ||
                  std::ranges::any_of(span->children, [&](const Span* s) { return !gone.contains(s); });
    if (shared && depth < full) break;
    bool kept = static_cast<int64_t>(depth) * c.options.page_tokens <= keep;
    // Where others go on, snapshots at or before the fork are theirs as well.
    for (SnapshotEntry* entry : own) {
      if (entry->length > keep && (!shared || entry->length >= std::ssize(key.tokens)))
        entries.push_back(entry);
    }
    if (shared || kept) break;
    doomed.push_back(span);
    gone.insert(span);
  }
  std::vector<SpanHash> hashes;
  for (const Span* span : doomed) hashes.push_back(span->hash);
  for (size_t depth = 0; depth <= full; ++depth)
    hashes.push_back(depth == 0 ? path.root->hash : path.spans[depth - 1]->hash);
  for (SnapshotEntry* entry : entries) c.forget(*entry);
  for (Span* span : doomed) c.forget(*span);
  for (SpanHash hash : hashes) c.tree.prune(c.tree.find(hash));
}

std::vector<PrefixInfo> PrefixCache::list() const {
  const Impl& c = *impl_;
  std::vector<const Span*> leaves;
  for (const auto& [hash, span] : c.tree.spans()) {
    if (span->index >= 0 && span->known && span->children.empty()) leaves.push_back(span.get());
  }
  std::ranges::sort(leaves, {}, &Span::serial);
  std::vector<PrefixInfo> infos;
  for (const Span* leaf : leaves) {
    PrefixInfo info;
    info.id = leaf->hash;
    info.cache_namespace = leaf->cache_namespace;
    info.tokens = (leaf->index + 1) * c.options.page_tokens;
    info.hits = leaf->hits;
    info.kept = leaf->kept;
    info.last_used = leaf->last_used;
    for (const Span* at = leaf; at != nullptr; at = at->parent) {
      info.memory_bytes += at->page ? c.pool.page_bytes() : 0;
      info.disk_bytes += at->disk ? c.pool.page_bytes() : 0;
      for (const auto& entry : at->snapshots) {
        info.memory_bytes += entry->state ? entry->bytes : 0;
        info.disk_bytes += entry->record ? entry->bytes : 0;
        if (at == leaf) info.hits = std::max(info.hits, entry->hits);
      }
    }
    infos.push_back(info);
  }
  return infos;
}

std::vector<int32_t> PrefixCache::tokens_of(SpanHash id) const {
  const Span* span = impl_->tree.find(id);
  return span == nullptr ? std::vector<int32_t>() : impl_->tree.tokens_to(*span);
}

void PrefixCache::Impl::audit() const {
  pool.audit();
  tree.audit();
  std::set<PageId> pages;
  int64_t in_memory = 0, idle = 0, pinned = 0, listed_snapshots = 0, states = 0, state_bytes = 0;
  for (const auto& [hash, span] : tree.spans()) {
    KVASIR_CHECK(span->standing.listed == span->page.has_value(),
                 "a page that is not in the order, or the other way round");
    if (span->page) {
      ++in_memory;
      KVASIR_CHECK(pages.insert(*span->page).second, "page {} of two spans",
                   static_cast<uint32_t>(*span->page));
      int references = pool.references(*span->page);
      KVASIR_CHECK(references >= (span->writing ? 2 : 1), "page {} with {} references",
                   static_cast<uint32_t>(*span->page), references);
      ++(references == 1 && !span->load ? idle : pinned);
    }
    if (span->load)
      KVASIR_CHECK(std::ranges::count(loading, span.get()) == 1, "a read that nobody waits for");
    if (span->disk)
      KVASIR_CHECK(records.at(span->disk->record).spans.at(span->disk->slot) == span.get(),
                   "a record of another span");
    if (span->writing)
      KVASIR_CHECK(std::ranges::count(writes.at(*span->writing).spans, span.get()) == 1,
                   "a write of another span");
    for (const auto& entry : span->snapshots) {
      bool listed = entry->state && entry->use != SnapshotUse::kPreempted;
      KVASIR_CHECK(entry->standing.listed == listed,
                   "a snapshot that is not in the order, or the other way round");
      listed_snapshots += listed ? 1 : 0;
      states += entry->state ? 1 : 0;
      state_bytes += entry->state ? std::ssize(*entry->state) : 0;
      if (entry->record)
        KVASIR_CHECK(records.at(*entry->record).snapshot == entry.get(), "a record of another snapshot");
      if (entry->writing)
        KVASIR_CHECK(writes.at(*entry->writing).snapshot == entry.get(), "a write of another snapshot");
    }
  }
  KVASIR_CHECK(page_order.count() == in_memory && snapshot_order.count() == listed_snapshots,
               "{} and {} in the orders, {} and {} in the tree", page_order.count(), snapshot_order.count(),
               in_memory, listed_snapshots);
  KVASIR_CHECK(pool.idle_pages() == idle && states_held == states && state_bytes_held == state_bytes,
               "{} idle pages, {} snapshots of {} bytes; counted were {}, {}, {}", idle, states, state_bytes,
               pool.idle_pages(), states_held, state_bytes_held);
  // (3): whatever is allocated and not the cache's is some sequence's own.
  int64_t own = pool.allocated_pages() - idle - pinned;
  int64_t orphans = 0;  // of forgotten spans, until their write ends
  for (const auto& [id, write] : writes) orphans += std::ranges::count(write.spans, nullptr);
  KVASIR_CHECK(own >= 0 && own + pinned + idle + pool.available_pages() == pool.max_pages() && orphans >= 0,
               "{} private pages", own);
}

}  // namespace kvasir
