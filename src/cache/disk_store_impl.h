// DiskStore::Impl: the state behind disk_store.h, for disk_store.cc (opening, the index, queries),
// disk_writer.cc (the writing thread: segments, marks), disk_evict.cc (the size limit, compaction) and
// disk_reader.cc (the reading threads).
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <unordered_map>

#include "cache/disk_store.h"

namespace kvasir {

// A file of records. Readers share it, so that one that is removed stays readable for those who are at it.
struct Segment {
  uint64_t number = 0;
  std::string path;
  std::unique_ptr<DiskFile>
      file;              // constant after construction; DiskFile is safe for readers beside the writer
  int64_t bytes = 0;     // synced and known good
  int64_t data_end = 0;  // of its records; a footer may follow. Once sealed
  bool sealed = false;
  int64_t marks_bytes = 0;         // of records of marks
  std::vector<LocatedHead> heads;  // for its footer; the writing thread's, empty once sealed
};

// One record of the index.
struct DiskEntry {
  RecordKind kind = RecordKind::kExtent;
  std::shared_ptr<Segment> segment;
  int64_t offset = 0;
  int64_t head_bytes = 0;
  int64_t payload_bytes = 0;
  uint64_t present = 0;
  uint64_t dead = 0;
  int64_t last_used = 0;
  int64_t depth = 0;  // first span, or length: among equals the deeper goes first
  DiskWorth worth;
  bool marked = false;  // differs from its head: a mark tells so
  std::string note_key;

  uint64_t live() const { return present & ~dead; }
  int64_t record_bytes() const { return head_bytes + padded(payload_bytes); }
  int64_t live_bytes() const {
    return record_bytes() * __builtin_popcountll(live()) / std::max(1, __builtin_popcountll(present));
  }
};

struct DiskStore::Impl {
  struct Job {
    RecordHead head;
    std::vector<const std::byte*> pages;
    std::shared_ptr<const std::vector<std::byte>> bytes;  // of a snapshot or a note
    int64_t size = 0;
  };
  struct ReadTask;

  explicit Impl(DiskOptions options_in);
  ~Impl();

  // disk_store.cc
  Status open();
  Status open_segment(const DiskFiles::Entry& found, uint64_t number, std::vector<Mark>& marks);
  void mend(Segment& segment, const SegmentScan& scan);
  // False: not a record that anyone looks for. With the lock, once threads run.
  bool index(const RecordHead& head, const LocatedHead& located, const std::shared_ptr<Segment>& segment);
  std::optional<RecordId> put(Job job);
  void lose(RecordId id, uint64_t slots, std::unique_lock<std::mutex>& lock);
  int64_t now() const { return options.unix_seconds(); }

  // disk_writer.cc: the writing thread's, without the lock unless said
  void write_loop();
  void write_batch(std::vector<Job> batch);
  Status write_record(RecordHead& head, std::span<const iovec> payload);
  Status write_job(Job& job);
  Status start_segment();
  Status seal();
  Status sync_segment();
  Status write_marks(const std::vector<RecordId>& ids);
  void abandon(const Error& error);  // the end of the segment is not good any more
  void note_failure(const Error& error, std::unique_lock<std::mutex>& lock);
  bool failing() const { return options.monotonic_ms() < retry_at_ms; }

  // disk_evict.cc: likewise
  void keep_limit();
  bool remove_foreign();  // with the lock
  void evict_to(int64_t live_bytes);
  // `marks_safe`: all marks have been written to a newer segment; made so if need be.
  Status compact(const std::shared_ptr<Segment>& victim, bool& marks_safe);
  Status rewrite(RecordId id, const DiskEntry& entry);
  std::shared_ptr<Segment> most_dead(double least, uint64_t before) const;
  int64_t total_bytes() const;  // with the lock

  // disk_reader.cc
  void read_loop();

  DiskOptions options;
  std::optional<FolderLock> folder_lock;

  mutable std::mutex mutex;
  // Guarded by mutex.
  std::unordered_map<RecordId, DiskEntry> entries;
  std::map<uint64_t, std::shared_ptr<Segment>> segments;
  std::vector<DiskFiles::Entry> foreign;
  std::map<std::string, RecordId, std::less<>> notes;
  std::deque<Job> queue;
  std::vector<DiskEvent> events;
  std::set<RecordId> dirty;  // marks to be written
  bool dropped = false;      // some of them must not wait for the next flush
  int in_flight = 0;         // jobs that the writer has taken
  bool stop = false;
  uint64_t flush_wanted = 0, flush_done = 0;
  Status flush_status;  // of what was written since the last flush
  int64_t retry_at_ms = 0, retry_delay_ms = 0;
  uint64_t next_id = 1;
  DiskMetrics counters;  // only the counting ones
  std::vector<RecordHead> found;
  std::deque<std::shared_ptr<ReadTask>> reads;
  std::condition_variable writer_wakes, reader_wakes, changed;

  // The writing thread's.
  std::shared_ptr<Segment> active;
  int64_t active_end = 0;  // written, perhaps not synced
  struct Unsynced {
    RecordHead head;
    LocatedHead located;
  };
  std::vector<Unsynced> unsynced;
  uint64_t next_segment = 1;

  std::thread writer;
  std::vector<std::thread> readers;
};

struct DiskRead::Shared {
  mutable std::mutex mutex;
  std::condition_variable changed;
  std::vector<int> waiting;  // by section: tasks that have not ended
  int sections_ready = 0;
  int tasks = 0;
  std::vector<char> good;  // by page asked for
  bool with_snapshot = false;
  std::shared_ptr<const std::vector<std::byte>> snapshot;
};

}  // namespace kvasir
