// The way to disk and what comes from it; see prefix_cache_impl.h.
#include <fmt/core.h>

#include <algorithm>

#include "cache/prefix_cache_impl.h"

namespace kvasir {

bool PrefixCache::Impl::Record::empty() const {
  return snapshot == nullptr && std::ranges::all_of(spans, [](const Span* span) { return span == nullptr; });
}

void PrefixCache::Impl::load_found() {
  for (RecordHead& head : disk->take_found()) add_found(head);
}

void PrefixCache::Impl::add_found(RecordHead& head) {
  Record record;
  uint64_t unwanted = 0;
  if (head.kind == RecordKind::kSnapshot) {
    const SnapshotHead& s = head.snapshot;
    int64_t index = s.length / options.page_tokens - 1;
    Span& place = tree.make_place(s.cache_namespace, s.before, index);
    bool known_already =
        std::ranges::any_of(place.snapshots, [&](const auto& e) { return e->tail == s.tail; });
    bool fits = place.index == index && place.cache_namespace == s.cache_namespace &&
                s.use <= static_cast<uint32_t>(SnapshotUse::kPreempted) &&
                (index >= 0 || s.before == root_hash(s.cache_namespace));
    if (fits && !known_already) {
      SnapshotEntry& entry = tree.add_snapshot(place, s.tail);
      entry.use = static_cast<SnapshotUse>(s.use);
      entry.record = head.id;
      entry.bytes = head.payload_bytes;
      entry.hits = head.hits;
      entry.kept = head.kept;
      record.snapshot = &entry;
    } else {
      unwanted = 1;
      tree.prune(&place);
    }
  } else {
    const ExtentHead& e = head.extent;
    auto tokens = std::span<const int32_t>(e.tokens);
    auto count = static_cast<int>(std::ssize(tokens) / options.page_tokens);
    record.spans.assign(count, nullptr);
    SpanHash before = e.before;
    std::vector<SpanHash> absent;
    for (int i = 0; i < count; ++i) {
      Span* span = tree.make_found(e.cache_namespace, before, e.first + i,
                                   tokens.subspan(i * options.page_tokens, options.page_tokens));
      bool present = (head.present >> i & 1) != 0;
      if (span != nullptr && present && !span->disk) {
        span->disk = DiskSlot{head.id, i};
        span->hits = std::max<int64_t>(span->hits, head.hits);
        span->kept = head.kept;
        span->last_used = head.last_used;
        record.spans[i] = span;
      } else {
        unwanted |= present ? uint64_t{1} << i : 0;
        if (span != nullptr) absent.push_back(span->hash);
      }
      before = next_hash(before, tokens.subspan(i * options.page_tokens, options.page_tokens));
      if (span == nullptr) {
        for (int rest = i + 1; rest < count; ++rest) unwanted |= head.present & uint64_t{1} << rest;
        break;
      }
    }
    // A span without a page stays only as the way to one that has. By hash: pruning one may take those before
    // it along.
    for (SpanHash hash : absent) tree.prune(tree.find(hash));
  }
  if (unwanted != 0) disk->drop(head.id, unwanted);
  if (!record.empty()) records.emplace(head.id, std::move(record));
}

void PrefixCache::Impl::collect() {
  if (disk == nullptr) return;
  for (const DiskEvent& event : disk->take_events()) {
    auto write = writes.find(event.id);
    switch (event.kind) {
      case DiskEvent::Kind::kWritten:
        if (write != writes.end()) written(event.id, write->second);
        break;
      case DiskEvent::Kind::kFailed:
        if (write != writes.end()) failed(write->second);
        break;
      case DiskEvent::Kind::kLost:
        lost(event.id, event.slots);
        continue;
    }
    if (write != writes.end()) writes.erase(write);
  }
  if (!loading.empty() || !loading_snapshots.empty()) finish_loads();
}

void PrefixCache::Impl::written(RecordId id, Write& write) {
  Record& record = records[id];
  record.spans.assign(write.spans.size(), nullptr);
  uint64_t unwanted = 0;
  for (size_t i = 0; i < write.spans.size(); ++i) {
    pool.release(write.pages[i]);
    Span* span = write.spans[i];
    if (span == nullptr) {
      unwanted |= uint64_t{1} << i;
      continue;
    }
    span->writing.reset();
    span->disk = DiskSlot{id, static_cast<int>(i)};
    record.spans[i] = span;
    use(*span);
  }
  if (write.spans.empty() && write.snapshot == nullptr) unwanted = 1;
  if (write.snapshot != nullptr) {
    write.snapshot->writing.reset();
    write.snapshot->record = id;
    record.snapshot = write.snapshot;
    use(*write.snapshot);
  }
  if (unwanted != 0) disk->drop(id, unwanted);
  if (record.empty()) records.erase(id);
}

void PrefixCache::Impl::failed(Write& write) {
  for (PageId page : write.pages) pool.release(page);
  for (Span* span : write.spans) {
    if (span == nullptr) continue;
    span->writing.reset();
    tree.prune(span);
  }
  if (write.snapshot == nullptr) return;
  write.snapshot->writing.reset();
  if (!write.snapshot->state) tree.remove_snapshot(*write.snapshot);
}

void PrefixCache::Impl::lost(RecordId id, uint64_t slots) {
  auto it = records.find(id);
  if (it == records.end()) return;
  Record& record = it->second;
  for (size_t i = 0; i < record.spans.size(); ++i) {
    Span* span = record.spans[i];
    if ((slots >> i & 1) == 0 || span == nullptr) continue;
    record.spans[i] = nullptr;
    span->disk.reset();
    use(*span);
    tree.prune(span);
  }
  if (SnapshotEntry* entry = record.snapshot; entry != nullptr && (slots & 1) != 0) {
    record.snapshot = nullptr;
    entry->record.reset();
    use(*entry);
    if (!entry->state) tree.remove_snapshot(*entry);
  }
  if (record.empty()) records.erase(it);
}

// Worth of a record: its best page's. A span counts as its own future and as the way to those behind it.
DiskWorth PrefixCache::Impl::worth(const Span& span) const {
  return {static_cast<uint32_t>(span.hits), static_cast<float>(reuse_worth(span.hits + span.turns)),
          span.kept};
}

DiskWorth PrefixCache::Impl::worth(const SnapshotEntry& entry) const {
  double weight = reuse_worth(entry.hits) * (entry.superseded ? 0.125 : 1);
  return {static_cast<uint32_t>(entry.hits), static_cast<float>(weight), entry.kept};
}

void PrefixCache::Impl::touch_records(const PrefixTree::Path& path, size_t spans, SnapshotEntry* snapshot) {
  std::optional<RecordId> last;
  for (size_t i = 0; i < spans; ++i) {
    const auto& slot = path.spans[i]->disk;
    if (!slot || slot->record == last) continue;
    last = slot->record;
    disk->touch(slot->record, worth(*path.spans[i]));
  }
  if (snapshot != nullptr && snapshot->record) disk->touch(*snapshot->record, worth(*snapshot));
}

bool PrefixCache::Impl::write_extent(std::span<Span* const> run) {
  ExtentHead extent;
  extent.cache_namespace = run[0]->cache_namespace;
  extent.before = run[0]->parent->hash;
  extent.first = run[0]->index;
  std::vector<const std::byte*> addresses;
  DiskWorth best;
  std::vector<std::byte> staged;  // for the disk's thread, which reads the host's memory
  Memory& memory = pool.memory();
  if (!memory.on_host()) staged.resize(run.size() * static_cast<size_t>(pool.page_bytes()));
  for (const Span* span : run) {
    extent.tokens.insert(extent.tokens.end(), span->tokens.begin(), span->tokens.end());
    const std::byte* address = pool.address(*span->page);
    if (!staged.empty()) {
      std::byte* copy = staged.data() + static_cast<int64_t>(addresses.size()) * pool.page_bytes();
      memory.read(copy, address, pool.page_bytes());
      address = copy;
    }
    addresses.push_back(address);
    DiskWorth own = worth(*span);
    best = {std::max(best.hits, own.hits), std::max(best.weight, own.weight), best.kept || own.kept};
  }
  auto id = disk->put_pages(std::move(extent), std::move(addresses), best);
  if (!id) return false;
  Write& write = writes[*id];
  write.staged = std::move(staged);
  for (Span* span : run) {
    pool.retain(*span->page);
    span->writing = *id;
    write.spans.push_back(span);
    write.pages.push_back(*span->page);
  }
  return true;
}

bool PrefixCache::Impl::write_spans(std::span<Span* const> spans) {
  auto needs = [](const Span* span) { return span->in_memory() && !span->disk && !span->writing; };
  for (size_t begin = 0; begin < spans.size();) {
    size_t end = begin;
    while (end < spans.size() && end - begin < kMaxExtentPages && needs(spans[end])) ++end;
    if (end > begin && !write_extent(spans.subspan(begin, end - begin))) return false;
    begin = std::max(end, begin + 1);
  }
  return true;
}

bool PrefixCache::Impl::write_snapshot(SnapshotEntry& entry) {
  SnapshotHead head;
  head.cache_namespace = entry.span->cache_namespace;
  head.before = entry.span->hash;
  head.length = entry.length;
  head.use = static_cast<uint32_t>(entry.use);
  head.tail = entry.tail;
  auto id = disk->put_snapshot(std::move(head), entry.state, worth(entry));
  if (!id) return false;
  entry.writing = *id;
  writes[*id].snapshot = &entry;
  return true;
}

bool PrefixCache::Impl::spill(Span& span) {
  std::vector<Span*> run = {&span};
  auto goes_too = [](const Span* s) {
    return s != nullptr && s->index >= 0 && s->in_memory() && !s->disk && !s->writing;
  };
  while (run.size() < kMaxExtentPages && goes_too(run.back()->parent)) run.push_back(run.back()->parent);
  std::reverse(run.begin(), run.end());
  return write_spans(run);
}

void PrefixCache::write_behind(PrefixKey key) {
  Impl& c = *impl_;
  c.collect();
  auto path = c.tree.walk(key);
  for (Span* span : path.spans) c.use(*span);
  // Less than a page is computed again sooner than it is looked up.
  if (c.disk == nullptr || path.spans.empty()) return;
  if (!c.write_spans(path.spans)) return;
  for (SnapshotEntry* entry : c.snapshots_on(path, key)) {
    bool wanted = entry->state && !entry->record && !entry->writing && entry->use != SnapshotUse::kPreempted;
    if (wanted && !c.write_snapshot(*entry)) return;
  }
}

Status PrefixCache::flush() {
  Impl& c = *impl_;
  if (c.disk == nullptr) return {};
  c.collect();
  std::vector<Span*> spans;
  for (const auto& [hash, span] : c.tree.spans()) {
    if (span->in_memory() && span->children.empty()) spans.push_back(span.get());
  }
  std::ranges::sort(spans, {}, &Span::serial);
  // One chain after the other, each as one key; those that do not fit the queue wait for the disk.
  for (Span* leaf : spans) {
    std::vector<Span*> path;
    for (Span* at = leaf; at != nullptr && at->index >= 0; at = at->parent) path.push_back(at);
    std::reverse(path.begin(), path.end());
    KVASIR_TRY_STATUS(c.write_all(path));
  }
  KVASIR_TRY_STATUS(c.write_all_snapshots());
  Status status = c.disk->flush();
  c.collect();
  return status;
}

// As write_spans, waiting for the disk whenever its queue is full.
Status PrefixCache::Impl::write_all(std::span<Span* const> spans) {
  while (!write_spans(spans)) {
    if (writes.empty()) return disk_refuses();
    disk->wait_event();
    collect();
  }
  return {};
}

Status PrefixCache::Impl::write_all_snapshots() {
  std::vector<SnapshotEntry*> entries;
  for (const auto& [hash, span] : tree.spans()) {
    for (const auto& entry : span->snapshots) {
      bool wanted = entry->state && !entry->record && !entry->writing &&
                    entry->use != SnapshotUse::kPreempted && entry->length >= options.page_tokens;
      if (wanted) entries.push_back(entry.get());
    }
  }
  std::ranges::sort(entries, {}, &SnapshotEntry::serial);
  for (SnapshotEntry* entry : entries) {
    while (!write_snapshot(*entry)) {
      if (writes.empty()) return disk_refuses();
      disk->wait_event();
      collect();
    }
  }
  return {};
}

Error PrefixCache::Impl::disk_refuses() const {
  return {ErrorCode::kIo, "the disk tier takes no writes now: " + disk->metrics().last_error};
}

Status PrefixCache::save(PrefixKey key) {
  Impl& c = *impl_;
  if (c.disk == nullptr) return Error{ErrorCode::kUnsupported, "there is no disk tier to save to"};
  c.collect();
  auto path = c.tree.walk(key);
  size_t run = 0;
  while (run < path.spans.size() && path.spans[run]->available()) ++run;
  if (run == 0)
    return Error{ErrorCode::kNotFound,
                 fmt::format("nothing of this prefix of {} tokens is known", key.tokens.size())};
  auto spans = std::span(path.spans).first(run);
  auto entries = c.snapshots_on(path, key);
  for (Span* span : spans) span->kept = true;
  for (SnapshotEntry* entry : entries) entry->kept = entry->use != SnapshotUse::kPreempted;
  KVASIR_TRY_STATUS(c.write_all(spans));
  for (SnapshotEntry* entry : entries) {
    while (entry->kept && entry->state && !entry->record && !entry->writing && !c.write_snapshot(*entry)) {
      if (c.writes.empty()) return c.disk_refuses();
      c.disk->wait_event();
      c.collect();
    }
  }
  KVASIR_TRY_STATUS(c.disk->flush());
  c.collect();
  path = c.tree.walk(key);
  for (size_t i = 0; i < std::min(run, path.spans.size()); ++i) {
    if (path.spans[i]->disk) c.disk->touch(path.spans[i]->disk->record, c.worth(*path.spans[i]));
  }
  for (const SnapshotEntry* entry : c.snapshots_on(path, key)) {
    if (entry->record) c.disk->touch(*entry->record, c.worth(*entry));
  }
  return c.disk->flush();
}

}  // namespace kvasir
