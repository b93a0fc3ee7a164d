// PrefixCache: the KV pages and snapshots of prompts seen before, in memory first and on disk second.
//
// Two kinds of entries, each keyed by a hash of the namespace and of every token up to its end (the tokens
// are kept beside it and compared, so a collision is a miss and never an answer):
//   page      the compressed entries of one span of `page_tokens` tokens; immutable, shared by every sequence
//   snapshot  what a sequence needs beside its pages to go on from exactly that length (windows, compressor
//   tails,
//             the rows of the page that is not full yet); bytes that the engine wrote and the engine reads
// The cache knows neither the model nor requests: pages and snapshots are opaque bytes of given sizes.
//
//             publish             last reader gone              write behind
//  private  ───────────► pinned ───────────────────────► idle ─────────────► idle, also on disk
//                           ▲ ◄───────── restore ──────────┤                     │ evict
//                           └────────── restore, read back ┼──── on disk only ◄──┘
//                                                          └─ evict ─► gone
// Invariants
//  (1) A published page is never written again.
//  (2) A missing page shortens a hit and nothing more: pages behind it stay, and count again when it returns.
//  (3) private + pinned + idle + free == pages of the pool (audit() checks).
//  (4) What restore gives was computed by this model, in these numerics, from exactly these tokens.
//  (5) Pages and snapshots have their own budgets; neither pushes out the other.
// Threading: owned by the engine thread, unsynchronised; the disk thread sees immutable bytes only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/cache_tier.h"
#include "cache/page_pool.h"
#include "cache/span_hash.h"

namespace kvasir {

class DiskStore;

// A prompt as the cache sees it.
struct PrefixKey {
  uint64_t cache_namespace = 0;
  std::span<const int32_t> tokens;
};

// What is known of a prompt. Values: nothing is pinned by it.
struct PrefixMatch {
  struct Point {
    int64_t length = 0;  // a sequence can resume here
    CacheTier tier = CacheTier::kNone;
  };
  int64_t page_tokens = 0;    // an unbroken run of full pages from the start covers so many tokens, <= limit
  std::vector<Point> points;  // ascending; each <= limit, its full pages inside page_tokens
  // Where this prompt parts from the longest prompt known so far, if it parts from it at all and no point
  // lies close below; else 0. A snapshot taken there (SnapshotUse::kBranch) serves every further branch.
  int64_t branch_length = 0;
};

// Pages, and perhaps a snapshot, on their way into memory. Destroying it, at any time, unpins what was not
// taken; the cache outlives it. Engine thread, except where it says otherwise.
class Restore {
 public:
  virtual ~Restore() = default;
  // All bytes are there, or as many as can be had. Until then only sections below sections_ready() may be
  // read.
  virtual bool done() = 0;
  // Disk reads go section by section (a section is a range of bytes of every page: one layer), so that layer
  // 0 can start while later ones stream. Any thread.
  virtual int sections_ready() const = 0;
  virtual void wait_section(int section) = 0;  // until sections_ready() > section, or reading has failed
  // After done(): fewer than asked if bytes were missing or failed their checksum.
  virtual int64_t page_tokens() const = 0;
  virtual CacheTier tier() const = 0;  // kDisk if any byte had to be read from there
  // The pages, oldest first, one reference each for the caller (BlockTable::adopt); empty afterwards. May be
  // called before done(), to start with the first sections; if page_tokens() then turns out smaller than what
  // was taken, the pages behind it hold garbage, as does all that was computed from them.
  virtual std::vector<PageId> take_pages() = 0;
  // The snapshot asked for; none if it was lost or, before done(), is still on its way: it is what is read
  // first.
  virtual const std::vector<std::byte>* snapshot() = 0;
};

// What a snapshot is for: how long it is worth keeping.
enum class SnapshotUse {
  kSystem,     // end of system text and tools: shared by many conversations
  kPromptEnd,  // before the think token, end of the prompt, a tool result
  kOutputEnd,  // end of an answer: the next turn
  kBranch,     // where two prompts were seen to part
  kPreempted,  // of a sequence that waits to go on: not evicted, only dropped by its owner
};

struct PrefixCacheOptions {
  int64_t page_tokens = 128;
  std::vector<int64_t>
      section_bytes;  // of a page, first to last; they add up to the pool's page_bytes. Empty: one section
  int64_t snapshot_bytes = 0;  // memory for snapshots; those of preempted sequences may exceed it
};

struct PrefixCacheMetrics {
  int64_t pages = 0, idle_pages = 0, page_bytes = 0;
  int64_t snapshots = 0, snapshot_bytes = 0;
  int64_t disk_pages = 0, disk_snapshots = 0, disk_bytes = 0;
  int64_t evicted_pages = 0, evicted_snapshots = 0;  // from memory; on disk they may still be
  int64_t corrupt_records = 0;                       // on disk, refused: torn, or with a wrong checksum
  int64_t disk_errors = 0;  // writes that failed (disk full, read-only): the memory tier goes on alone
};

// One known prompt, as administration sees it: a chain of pages that no longer chain contains.
struct PrefixInfo {
  SpanHash id;  // of its last full page
  uint64_t cache_namespace = 0;
  int64_t tokens = 0;        // in full pages
  int64_t memory_bytes = 0;  // pages and snapshots along it, shared ones included
  int64_t disk_bytes = 0;
  int64_t hits = 0;       // of its last page or of a snapshot behind it
  int64_t last_used = 0;  // unix seconds when it was found on disk; 0: made since
  bool kept = false;      // by save()
};

class PrefixCache {
 public:
  // `pool` and `disk` outlive the cache; `disk` may be null.
  PrefixCache(PagePool& pool, DiskStore* disk, PrefixCacheOptions options);
  ~PrefixCache();

  // What could be reused of `key.tokens`, at most `limit` tokens. O(tokens).
  PrefixMatch lookup(PrefixKey key, int64_t limit);
  // Brings the pages of the first `page_tokens` tokens (a multiple of the page's) into memory and pins them,
  // and the snapshot at `snapshot_length` if that is not 0. kBusy: no room for them.
  Result<std::unique_ptr<Restore>> restore(PrefixKey key, int64_t page_tokens, int64_t snapshot_length);

  // Full pages of a sequence that holds `key.tokens`, from page `first` on: other requests may use them from
  // now on. The cache takes its own references. Idempotent; a page that is already known stays the known one.
  // Only pages that no roll-back can reach any more may be published (1).
  void publish(PrefixKey key, int64_t first, std::span<const PageId> pages);
  // `state` resumes a sequence that holds exactly `key.tokens`.
  void put_snapshot(PrefixKey key, std::vector<std::byte> state, SnapshotUse use);
  // Out of memory; what is on disk stays there.
  void drop_snapshot(PrefixKey key);
  // Nobody extends this prefix just now (its request has ended): what is worth keeping of it goes to disk in
  // the background.
  void write_behind(PrefixKey key);

  // Afterwards `pages` pages can be allocated from the pool: evicts idle ones as far as needed. kBusy: fewer
  // are idle; the scheduler preempts and asks again.
  Status make_room(int64_t pages);

  // Administration. A prefix is kept (never evicted from disk before anything else) or forgotten, in all
  // tiers. kNotFound: nothing of it is known. kIo: the disk refused. kUnsupported: there is no disk tier.
  Status save(PrefixKey key);  // returns when it is on disk and synced
  // Drops what begins with `key.tokens`, and of its own pages those that no other prompt shares. `keep`:
  // others want its first so many tokens, and where to resume in them.
  void forget(PrefixKey key, int64_t keep = 0);
  // Writes everything worth keeping and waits for the disk. kIo: some of it could not be written.
  Status flush();
  std::vector<PrefixInfo> list() const;
  // The tokens of a listed prefix, for save and forget. Empty: not known (any more).
  std::vector<int32_t> tokens_of(SpanHash id) const;

  // Pages that make_room can evict now: nobody reads, writes or fills them. O(1).
  int64_t idle_pages() const;
  PrefixCacheMetrics metrics() const;  // O(records on disk)
  void audit() const;                  // aborts on a broken invariant

  struct Impl;  // prefix_cache_impl.h

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
