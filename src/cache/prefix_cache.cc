// Finding, publishing and evicting; see prefix_cache.h and prefix_cache_impl.h.
#include "cache/prefix_cache.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

#include "cache/prefix_cache_impl.h"

namespace kvasir {
namespace {

constexpr int64_t kMostReuse =
    15;  // more than this often counts as this often, so that nothing is kept forever
constexpr double kOnDiskWorth = 0.25;  // losing what is also on disk costs a read and not a forward
constexpr double kSupersededWorth = 0.125;

double use_worth(SnapshotUse use) {
  switch (use) {
    case SnapshotUse::kSystem:
      return 4;
    case SnapshotUse::kBranch:
      return 2;
    default:
      return 1;
  }
}

int64_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

}  // namespace

double reuse_worth(int64_t times) { return static_cast<double>(1 + std::min(times, kMostReuse)); }

PrefixCache::Impl::Impl(PagePool& pool_in, DiskStore* disk_in, PrefixCacheOptions options_in)
    : pool(pool_in),
      disk(disk_in),
      options(std::move(options_in)),
      tree(options.page_tokens),
      page_order(pool.max_pages()),
      snapshot_order(options.snapshot_bytes) {
  KVASIR_CHECK(options.page_tokens > 0, "pages of {} tokens", options.page_tokens);
  if (options.section_bytes.empty()) options.section_bytes = {pool.page_bytes()};
  int64_t sum = std::accumulate(options.section_bytes.begin(), options.section_bytes.end(), int64_t{0});
  KVASIR_CHECK(sum == pool.page_bytes(), "sections of {} bytes in all, pages of {}", sum, pool.page_bytes());
  if (disk == nullptr) return;
  const DiskOptions& d = disk->options();
  KVASIR_CHECK(d.page_tokens == options.page_tokens && d.section_bytes == options.section_bytes,
               "the disk tier keeps pages of another shape");
  load_found();
}

void PrefixCache::Impl::use(Span& span) {
  if (!span.page) return;
  double worth = reuse_worth(span.hits + span.turns) * (span.disk ? kOnDiskWorth : 1);
  page_order.use(span, 1, span.index, worth, span.hits + span.turns > 0);
}

void PrefixCache::Impl::use(SnapshotEntry& entry) {
  if (!entry.state || entry.use == SnapshotUse::kPreempted) return;
  double worth = reuse_worth(entry.hits) * use_worth(entry.use) * (entry.superseded ? kSupersededWorth : 1) *
                 (entry.record ? kOnDiskWorth : 1);
  bool guard = !entry.superseded && (entry.hits > 0 || entry.span->turns > 0);
  snapshot_order.use(entry, static_cast<int64_t>(entry.state->size()), entry.length, worth, guard);
}

void PrefixCache::Impl::use_path(const PrefixTree::Path& path, size_t spans,
                                 std::span<SnapshotEntry* const> snapshots) {
  for (size_t i = 0; i < spans; ++i) use(*path.spans[i]);
  for (SnapshotEntry* entry : snapshots) use(*entry);
}

std::vector<SnapshotEntry*> PrefixCache::Impl::snapshots_on(const PrefixTree::Path& path,
                                                            PrefixKey key) const {
  std::vector<SnapshotEntry*> found;
  auto look = [&](const Span& span) {
    auto rest = key.tokens.subspan((span.index + 1) * options.page_tokens);
    size_t before = found.size();
    for (const auto& entry : span.snapshots) {
      bool begins = entry->tail.size() <= rest.size() &&
                    std::ranges::equal(entry->tail, rest.first(entry->tail.size()));
      if (begins) found.push_back(entry.get());
    }
    std::sort(found.begin() + static_cast<int64_t>(before), found.end(),
              [](const SnapshotEntry* a, const SnapshotEntry* b) { return a->length < b->length; });
  };
  if (path.root != nullptr) look(*path.root);
  for (const Span* span : path.spans) look(*span);
  return found;
}

// The prompt parts from what is known where the longest common run with any continuation ends inside that
// continuation. If the run ends with the continuation, the prompt only goes on from there; if with the
// prompt, it is known.
int64_t PrefixCache::Impl::branch_length(const PrefixTree::Path& path, PrefixKey key, int64_t nearest) const {
  const Span* last = path.last();
  if (last == nullptr) return 0;
  int64_t at = (last->index + 1) * options.page_tokens;
  auto rest = key.tokens.subspan(at);
  int64_t longest = -1;
  bool parts = false;
  auto compare = [&](std::span<const int32_t> known) {
    int64_t length = common_length(rest, known);
    bool ends_inside = length < std::ssize(known) && length < std::ssize(rest);
    if (length < longest || (length == longest && ends_inside)) return;
    longest = length;
    parts = ends_inside;
  };
  for (const Span* child : last->children) compare(child->tokens);
  for (const auto& entry : last->snapshots) compare(entry->tail);
  int64_t length = at + longest;
  // Closer to a point than this, another snapshot would cost more than the tokens it saves.
  bool useful = parts && length - nearest >= options.page_tokens / 4;
  return useful ? length : 0;
}

PrefixCache::PrefixCache(PagePool& pool, DiskStore* disk, PrefixCacheOptions options)
    : impl_(std::make_unique<Impl>(pool, disk, std::move(options))) {}

PrefixCache::~PrefixCache() {
  // The disk still reads what waits to be written, and writes into what is being read.
  if (impl_->disk != nullptr) {
    (void)impl_->disk->flush();  // what could not be written was counted
    for (Span* span : impl_->loading) span->load->read->wait();
    impl_->collect();
  }
  for (const auto& [hash, span] : impl_->tree.spans()) {
    if (span->page) impl_->let_go(*span);
  }
}

PrefixMatch PrefixCache::lookup(PrefixKey key, int64_t limit) {
  impl_->collect();
  PrefixMatch match;
  auto path = impl_->tree.walk(key);
  int64_t page_tokens = impl_->options.page_tokens;
  size_t run = 0, in_memory = 0;
  for (; run < path.spans.size() && path.spans[run]->available(); ++run) {
    if (in_memory == run && path.spans[run]->in_memory()) ++in_memory;
    if (static_cast<int64_t>(run + 1) * page_tokens > limit) break;
  }
  match.page_tokens = static_cast<int64_t>(run) * page_tokens;

  std::vector<SnapshotEntry*> usable;
  for (SnapshotEntry* entry : impl_->snapshots_on(path, key)) {
    if (entry->length > limit || entry->length / page_tokens > static_cast<int64_t>(run)) continue;
    bool memory = entry->state != nullptr && entry->length / page_tokens <= static_cast<int64_t>(in_memory);
    match.points.push_back({entry->length, memory ? CacheTier::kMemory : CacheTier::kDisk});
    usable.push_back(entry);
  }
  int64_t nearest = match.points.empty() ? 0 : match.points.back().length;
  match.branch_length = impl_->branch_length(path, key, nearest);
  // What the incoming prompt can use goes last when room is made for it (CACHE-6).
  impl_->use_path(path, run, usable);
  return match;
}

void PrefixCache::publish(PrefixKey key, int64_t first, std::span<const PageId> pages) {
  impl_->collect();
  int64_t page_tokens = impl_->options.page_tokens;
  int64_t end = first + std::ssize(pages);
  KVASIR_CHECK(first >= 0 && end * page_tokens <= std::ssize(key.tokens), "pages {} to {} of {} tokens",
               first, end, key.tokens.size());
  auto path = impl_->tree.make({key.cache_namespace, key.tokens.first(end * page_tokens)});
  int64_t fresh = 0;
  for (int64_t i = first; i < std::min(end, std::ssize(path.spans)); ++i) {
    Span& span = *path.spans[i];
    if (span.page) continue;
    impl_->pool.retain(pages[i - first]);
    span.page = pages[i - first];
    impl_->pool.mark_cached(*span.page, true);
    ++fresh;
  }
  impl_->page_order.advance(fresh);
  // Of one age, so that leaves go before parents; write_behind does the same for the whole prefix.
  for (int64_t i = first; i < std::min(end, std::ssize(path.spans)); ++i) impl_->use(*path.spans[i]);
  impl_->tree.prune(path.last());
}

void PrefixCache::Impl::supersede(const PrefixTree::Path& path, PrefixKey key) {
  for (SnapshotEntry* entry : snapshots_on(path, key)) {
    bool passing = entry->use == SnapshotUse::kPromptEnd || entry->use == SnapshotUse::kOutputEnd;
    // Those just below are other ends of the same input: before the think token, before the last role.
    if (!passing || entry->length + options.page_tokens > std::ssize(key.tokens) || entry->superseded)
      continue;
    entry->superseded = true;
    use(*entry);
    if (entry->record) disk->touch(*entry->record, worth(*entry));
  }
}

void PrefixCache::put_snapshot(PrefixKey key, std::vector<std::byte> state, SnapshotUse use) {
  impl_->collect();
  auto path = impl_->tree.make(key);
  auto full = static_cast<size_t>(std::ssize(key.tokens) / impl_->options.page_tokens);
  if (path.spans.size() < full) return impl_->tree.prune(path.last());  // another prompt has its hash
  SnapshotEntry* entry = impl_->tree.find_snapshot(path, key);
  if (entry == nullptr)
    entry = &impl_->tree.add_snapshot(*path.last(), key.tokens.subspan(full * impl_->options.page_tokens));
  entry->use = use;
  entry->superseded = false;
  impl_->hold(*entry, std::make_shared<const std::vector<std::byte>>(std::move(state)));
  // Only an input's end: the answer's end is one of two ways on, and a chat that drops its reasoning takes
  // the other.
  if (use == SnapshotUse::kPromptEnd) impl_->supersede(path, key);
  impl_->trim_snapshots();
}

void PrefixCache::drop_snapshot(PrefixKey key) {
  impl_->collect();
  SnapshotEntry* entry = impl_->tree.find_snapshot(impl_->tree.walk(key), key);
  if (entry == nullptr || !entry->state) return;
  impl_->evict(*entry);
}

void PrefixCache::Impl::let_go(Span& span) {
  page_order.remove(span);
  pool.mark_cached(*span.page, false);
  pool.release(*span.page);
  span.page.reset();
}

void PrefixCache::Impl::hold(SnapshotEntry& entry, std::shared_ptr<const std::vector<std::byte>> state) {
  if (entry.state) let_go(entry);
  entry.state = std::move(state);
  entry.bytes = std::ssize(*entry.state);
  ++states_held;
  state_bytes_held += entry.bytes;
  snapshot_order.advance(entry.bytes);
  use(entry);
}

void PrefixCache::Impl::let_go(SnapshotEntry& entry) {
  snapshot_order.remove(entry);
  --states_held;
  state_bytes_held -= std::ssize(*entry.state);
  entry.state.reset();
}

void PrefixCache::Impl::evict(Span& span) {
  let_go(span);
  ++evicted_pages;
  tree.prune(&span);
}

void PrefixCache::Impl::evict(SnapshotEntry& entry) {
  let_go(entry);
  ++evicted_snapshots;
  if (!entry.record && !entry.writing) tree.remove_snapshot(entry);
}

void PrefixCache::Impl::trim_snapshots() {
  while (snapshot_order.size() > options.snapshot_bytes) {
    auto idle = [](const SnapshotEntry& entry) { return entry.state.use_count() == 1 && !entry.writing; };
    SnapshotEntry* victim = snapshot_order.first(idle);
    if (victim == nullptr) return;  // the others go once they are read or written
    if (disk != nullptr && !victim->record && write_snapshot(*victim)) continue;
    evict(*victim);
  }
}

Status PrefixCache::make_room(int64_t pages) { return impl_->make_room(pages); }

Status PrefixCache::Impl::make_room(int64_t pages) {
  collect();
  bool may_spill = disk != nullptr;
  int64_t spills = page_order.count();  // each page once: a disk that is too small may drop it again at once
  while (pool.available_pages() < pages) {
    auto idle = [&](const Span& span) { return pool.references(*span.page) == 1 && !span.load; };
    auto costs_nothing = [&](const Span& span) { return idle(span) && (span.disk || !may_spill); };
    if (Span* victim = page_order.first(costs_nothing)) {
      evict(*victim);
      continue;
    }
    // Everything left is on no disk: what can be written is, and goes once it is; the rest goes unwritten.
    Span* victim = may_spill ? page_order.first(idle) : nullptr;
    if (victim != nullptr && spills > 0 && spill(*victim)) {
      --spills;
      continue;
    }
    if (!writes.empty()) {
      disk->wait_event();  // writing a page takes a fraction of the time of computing it again
      collect();
    } else if (victim != nullptr) {
      may_spill = false;  // the disk takes nothing: it is failing
    } else {
      return Error{ErrorCode::kBusy,
                   fmt::format("{} KV pages are asked for; {} of {} are in use and none of them is idle",
                               pages, pool.allocated_pages(), pool.max_pages())};
    }
  }
  return {};
}

int64_t PrefixCache::idle_pages() const { return impl_->pool.idle_pages(); }

PrefixCacheMetrics PrefixCache::metrics() const {
  PrefixCacheMetrics m;
  m.pages = impl_->page_order.count();
  m.idle_pages = idle_pages();
  m.snapshots = impl_->states_held;
  m.snapshot_bytes = impl_->state_bytes_held;
  m.page_bytes = m.pages * impl_->pool.page_bytes();
  m.evicted_pages = impl_->evicted_pages;
  m.evicted_snapshots = impl_->evicted_snapshots;
  if (impl_->disk == nullptr) return m;
  DiskMetrics d = impl_->disk->metrics();
  m.disk_pages = d.pages;
  m.disk_snapshots = d.snapshots;
  m.disk_bytes = d.bytes;
  m.corrupt_records = d.corrupt_records;
  m.disk_errors = d.write_errors;
  return m;
}

void PrefixCache::audit() const { impl_->audit(); }

}  // namespace kvasir
