// PrefixCache::Impl: the state behind prefix_cache.h, for the .cc files that share it: prefix_cache.cc
// (lookup, publish, snapshots, eviction), prefix_restore.cc (bringing back), prefix_disk.cc (the way to disk
// and from it), prefix_admin.cc (list, forget, audit).
//
// Each page in `page_order` and each snapshot in `snapshot_order` is one that memory holds. A page has one
// reference of the cache; more than one means that somebody reads it (pinned), or that it waits to be
// written, or is being read in.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "cache/disk_store.h"
#include "cache/eviction_order.h"
#include "cache/prefix_cache.h"
#include "cache/prefix_tree.h"

namespace kvasir {

struct PrefixCache::Impl {
  Impl(PagePool& pool_in, DiskStore* disk_in, PrefixCacheOptions options_in);

  // What waits to be acknowledged by the disk. Entries that were forgotten meanwhile are null.
  struct Write {
    std::vector<Span*> spans;
    std::vector<PageId> pages;  // one reference each
    std::vector<std::byte> staged;  // their bytes, where pages are not on the host
    SnapshotEntry* snapshot = nullptr;
  };
  // Who is kept in a record.
  struct Record {
    std::vector<Span*> spans;  // by slot
    SnapshotEntry* snapshot = nullptr;
    bool empty() const;
  };

  struct SnapshotLoad {
    RecordId record{};
    std::shared_ptr<DiskRead> read;
  };

  // prefix_cache.cc
  void use(Span& span);
  void use(SnapshotEntry& entry);
  void use_path(const PrefixTree::Path& path, size_t spans, std::span<SnapshotEntry* const> snapshots);
  int64_t branch_length(const PrefixTree::Path& path, PrefixKey key, int64_t nearest) const;
  Status make_room(int64_t pages);
  void let_go(Span& span);  // of its page
  void hold(SnapshotEntry& entry, std::shared_ptr<const std::vector<std::byte>> state);
  void let_go(SnapshotEntry& entry);  // of its state
  void evict(Span& span);
  void evict(SnapshotEntry& entry);
  void trim_snapshots();
  void supersede(const PrefixTree::Path& path, PrefixKey key);
  // Snapshots along `path` whose tokens `key` begins with, shortest first.
  std::vector<SnapshotEntry*> snapshots_on(const PrefixTree::Path& path, PrefixKey key) const;

  // prefix_restore.cc
  void finish_loads();
  Status make_room_for(const PrefixTree::Path& path, size_t spans);
  void count_hit(const PrefixTree::Path& path, size_t spans, SnapshotEntry* entry);

  // prefix_disk.cc
  void load_found();
  void add_found(RecordHead& head);
  void collect();  // loads that ended and what the disk says
  void written(RecordId id, Write& write);
  void failed(Write& write);
  void lost(RecordId id, uint64_t slots);
  // Queues the spans that need it, in runs; false: the disk takes no more now.
  bool write_spans(std::span<Span* const> spans);
  bool write_extent(std::span<Span* const> run);
  bool write_snapshot(SnapshotEntry& entry);
  Status write_all(std::span<Span* const> spans);
  Status write_all_snapshots();
  Error disk_refuses() const;
  // The run of unwritten pages that ends in `span`.
  bool spill(Span& span);
  void drop_from_disk(Span& span);
  void drop_from_disk(SnapshotEntry& entry);
  void touch_records(const PrefixTree::Path& path, size_t spans, SnapshotEntry* snapshot);
  DiskWorth worth(const Span& span) const;
  DiskWorth worth(const SnapshotEntry& entry) const;

  // prefix_admin.cc
  void forget(Span& span);  // its page and snapshots, in all tiers; the node stays until it is pruned
  void forget(SnapshotEntry& entry);
  void audit() const;

  PagePool& pool;
  DiskStore* disk;
  PrefixCacheOptions options;
  PrefixTree tree;
  EvictionOrder<Span> page_order;
  EvictionOrder<SnapshotEntry> snapshot_order;
  std::unordered_map<RecordId, Write> writes;
  std::unordered_map<RecordId, Record> records;
  std::vector<Span*> loading;
  std::vector<SnapshotLoad> loading_snapshots;
  int64_t states_held = 0, state_bytes_held = 0;  // of snapshots, in memory
  int64_t evicted_pages = 0, evicted_snapshots = 0;
};

// Worth of being used again, from 1 to 16: how often that has happened.
double reuse_worth(int64_t times);

}  // namespace kvasir
