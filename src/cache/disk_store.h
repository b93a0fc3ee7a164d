// DiskStore: pages and snapshots in a folder, behind the memory tier.
//
// Append-only segment files of records (disk_format.h); which records there are is read from the segments
// themselves at open. A record is an extent (1..64 consecutive pages of one chain, stored section by
// section), a snapshot, or a note (a small value under a key that some other room wants to survive restarts).
// One thread writes, from a bounded queue; what it has synced is acknowledged as an event. A few threads
// read.
//
// Promises
//  (1) What was acknowledged is there after kill -9 at any moment, byte for byte, until evicted or dropped.
//  (2) Bytes whose checksum, identity or length is wrong are never handed out: they are lost, and counted.
//  (3) A disk that is full, read-only or failing costs nothing but the disk tier: puts are refused for a
//  while and
//      counted, and tried again later (1 s, doubling up to 60 s).
//  (4) The folder stays under max_bytes but for one segment in the making.
// Only records of `model` are read. Segments of other models are left alone until the folder is full.
// Threading: any thread may call anything; open and destruction belong to one owner. Buffers given to
// put_pages stay unchanged until their event, those given to read until the read is done.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "cache/disk_files.h"
#include "cache/disk_format.h"

namespace kvasir {

// Where the cache lies: `given`, or ~/.cache/kvasir. kInvalid: neither is there.
Result<std::string> cache_folder(const std::string& given);

struct DiskOptions {
  std::string folder;
  int64_t max_bytes = int64_t{20} << 30;
  int64_t segment_bytes = int64_t{256}
                          << 20;             // a new one is begun beyond this; at most an eighth of max_bytes
  int64_t queue_bytes = int64_t{256} << 20;  // that wait to be written; puts beyond are refused
  int read_threads = 4;
  int64_t request_bytes = int64_t{1} << 20;  // sections are read together up to here
  bool read_only = false;  // for looking at a folder that a server may be using: no lock, nothing is changed
  DiskModel model;
  int64_t page_tokens = 128;
  std::vector<int64_t> section_bytes;     // of a page
  DiskFiles* files = nullptr;             // null: the system's
  std::function<int64_t()> unix_seconds;  // null: the system's clock
  std::function<int64_t()> monotonic_ms;  // null: the system's clock; times the back-off
};

// How worth keeping a record is. The store adds its age.
struct DiskWorth {
  uint32_t hits = 0;
  float weight = 1;   // recompute cost against other records of its kind and size
  bool kept = false;  // goes after everything that is not
};

struct DiskEvent {
  enum class Kind {
    kWritten,  // the record is synced
    kFailed,   // it could not be written
    kLost,     // `slots` of it are gone: evicted, or found corrupt
  };
  Kind kind = Kind::kWritten;
  RecordId id{};
  uint64_t slots = 0;  // of an extent: bit i is its page i. Snapshots: 1
};

struct DiskMetrics {
  int64_t pages = 0, snapshots = 0, notes = 0;
  int64_t bytes = 0, live_bytes = 0,
          foreign_bytes = 0;  // of the folder; of what is still wanted; of other models
  int64_t segments = 0;
  int64_t written_bytes = 0, read_bytes = 0;
  int64_t corrupt_records = 0, write_errors = 0, refused_puts = 0;
  int64_t evicted_pages = 0, evicted_snapshots = 0;
  int64_t queued_bytes = 0;
  std::string last_error;
};

// Pages, and perhaps one snapshot, being read. Shared with the reading threads. Any thread.
class DiskRead {
 public:
  DiskRead();
  ~DiskRead();
  bool done() const;
  int sections_ready() const;  // of all pages asked for
  void wait_section(int section);
  void wait();
  // After done(): whether page `item`, in the order asked for, arrived whole.
  bool arrived(size_t item) const;
  // After done(): empty if none was asked for or it was lost.
  std::shared_ptr<const std::vector<std::byte>> snapshot() const;

  struct Shared;
  Shared& shared() { return *shared_; }

 private:
  std::unique_ptr<Shared> shared_;
};

class DiskStore {
 public:
  struct PageToRead {
    RecordId id{};
    int slot = 0;
    std::byte* to = nullptr;  // a whole page
  };

  // Creates the folder if needed. kBusy: another process has it.
  static Result<std::unique_ptr<DiskStore>> open(DiskOptions options);
  // Writes what is queued, syncs, joins.
  ~DiskStore();

  const DiskOptions& options() const;
  // The extents and snapshots that were found at open, oldest first; once.
  std::vector<RecordHead> take_found();

  // Queues a record. Empty: refused, since the queue is full or the disk is failing.
  std::optional<RecordId> put_pages(ExtentHead extent, std::vector<const std::byte*> pages, DiskWorth worth);
  std::optional<RecordId> put_snapshot(SnapshotHead snapshot,
                                       std::shared_ptr<const std::vector<std::byte>> state, DiskWorth worth);
  // What happened since the last call.
  std::vector<DiskEvent> take_events();
  // Blocks until an event is there or nothing is queued.
  void wait_event();
  // Blocks until everything queued is on disk and synced. kIo: something could not be written since the last
  // flush.
  Status flush();

  // The record was used just now, and is worth this much from now on. Lasts across restarts if the store gets
  // to write.
  void touch(RecordId id, DiskWorth worth);
  // These pages (or the snapshot, slots = 1) are not wanted any more. After a flush they do not come back.
  void drop(RecordId id, uint64_t slots);

  std::shared_ptr<DiskRead> read(std::vector<PageToRead> pages, std::optional<RecordId> snapshot);

  // A note replaces the one under the same key; an empty value removes it.
  Status put_note(std::string_view key, std::span<const std::byte> value);
  void for_each_note(const std::function<void(std::string_view, std::span<const std::byte>)>& visit);

  DiskMetrics metrics() const;
  // Asks the system to forget the cached bytes of all segments (benches).
  void drop_cached();

 private:
  struct Impl;
  explicit DiskStore(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvasir
