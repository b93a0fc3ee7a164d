// The writing thread: takes batches from the queue, appends them to the active segment, syncs once per batch,
// and only then enters the records into the index and tells the cache. See disk_store_impl.h.
#include <fmt/core.h>

#include <algorithm>

#include "base/check.h"
#include "cache/disk_store_impl.h"

namespace kvasir {
namespace {

constexpr int64_t kBatchBytes = int64_t{64} << 20;  // a sync each
constexpr int64_t kFirstRetryMs = 1000, kLastRetryMs = 60000;
constexpr size_t kMarksPerRecord = 4096;

std::span<const std::byte> bytes_of(const iovec& part) {
  return {static_cast<const std::byte*>(part.iov_base), part.iov_len};
}
iovec part_of(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

}  // namespace

void DiskStore::Impl::write_loop() {
  keep_limit();
  std::unique_lock lock(mutex);
  while (true) {
    writer_wakes.wait(lock, [&] { return stop || !queue.empty() || dropped || flush_wanted > flush_done; });
    std::vector<Job> batch;
    for (int64_t bytes = 0; !queue.empty() && bytes < kBatchBytes; queue.pop_front()) {
      bytes += queue.front().size;
      batch.push_back(std::move(queue.front()));
    }
    in_flight = static_cast<int>(batch.size());
    if (!batch.empty()) {
      lock.unlock();
      write_batch(std::move(batch));
      keep_limit();
      lock.lock();
      in_flight = 0;
      changed.notify_all();
      continue;  // marks and flushes come after what was queued before them
    }
    uint64_t flushing = flush_wanted;
    bool last = stop;
    std::vector<RecordId> ids(dirty.begin(), dirty.end());
    dirty.clear();
    dropped = false;
    lock.unlock();
    Status status = write_marks(ids);
    if (status && flushing > flush_done) keep_limit();
    if (last && active) (void)seal();  // without it the next open reads the segment head by head
    lock.lock();
    if (!status) {
      note_failure(status.error(), lock);
      dirty.insert(ids.begin(), ids.end());
    }
    flush_done = std::max(flush_done, flushing);
    changed.notify_all();
    if (last && queue.empty()) return;
  }
}

void DiskStore::Impl::note_failure(const Error& error, std::unique_lock<std::mutex>&) {
  ++counters.write_errors;
  counters.last_error = error.message;
  flush_status = error;
  retry_delay_ms = retry_delay_ms == 0 ? kFirstRetryMs : std::min(2 * retry_delay_ms, kLastRetryMs);
  retry_at_ms = options.monotonic_ms() + retry_delay_ms;
}

void DiskStore::Impl::write_batch(std::vector<Job> batch) {
  Status status;
  {
    std::lock_guard lock(mutex);
    if (failing()) status = Error{ErrorCode::kIo, counters.last_error};  // queued before it failed
  }
  bool was_failing = !status;
  size_t done = 0;
  for (; status && done < batch.size(); ++done) status = write_job(batch[done]);
  if (status) status = sync_segment();
  if (!status && !was_failing) abandon(status.error());

  std::unique_lock lock(mutex);
  if (status) {
    retry_delay_ms = 0;
  } else if (was_failing) {
    flush_status = status;
  } else {
    note_failure(status.error(), lock);
  }
  for (const Job& job : batch) {
    counters.queued_bytes -= job.size;
    bool written = entries.contains(job.head.id);
    if (job.head.kind == RecordKind::kNote) continue;
    events.push_back(
        {written ? DiskEvent::Kind::kWritten : DiskEvent::Kind::kFailed, job.head.id, job.head.present});
  }
}

Status DiskStore::Impl::write_job(Job& job) {
  std::vector<iovec> payload;
  if (job.head.kind == RecordKind::kExtent) {
    int64_t begin = 0;
    for (int64_t section : options.section_bytes) {
      for (const std::byte* page : job.pages) {
        payload.push_back(part_of({page + begin, static_cast<size_t>(section)}));
        job.head.extent.checksums.push_back(checksum_of(bytes_of(payload.back())));
      }
      begin += section;
    }
  } else {
    payload.push_back(part_of(*job.bytes));
    (job.head.kind == RecordKind::kNote ? job.head.note.checksum : job.head.snapshot.checksum) =
        checksum_of(*job.bytes);
  }
  return write_record(job.head, payload);
}

Status DiskStore::Impl::write_record(RecordHead& head, std::span<const iovec> payload) {
  if (active && active_end >= options.segment_bytes) {
    KVASIR_TRY_STATUS(sync_segment());
    KVASIR_TRY_STATUS(seal());
  }
  if (!active) KVASIR_TRY_STATUS(start_segment());
  head.payload_bytes = 0;
  for (const iovec& part : payload) head.payload_bytes += static_cast<int64_t>(part.iov_len);
  LocatedHead located{active_end, encode_head(head)};
  KVASIR_CHECK(std::ssize(located.bytes) <= kMaxHeadBytes, "a head of {} bytes", located.bytes.size());
  static constexpr std::byte kPadding[8] = {};
  std::vector<iovec> parts = {part_of(located.bytes)};
  parts.insert(parts.end(), payload.begin(), payload.end());
  parts.push_back(part_of(std::span(kPadding).first(padded(head.payload_bytes) - head.payload_bytes)));
  KVASIR_TRY_STATUS(active->file->write(active_end, parts));
  active_end += std::ssize(located.bytes) + padded(head.payload_bytes);
  unsynced.push_back({head, std::move(located)});
  return {};
}

Status DiskStore::Impl::start_segment() {
  auto segment = std::make_shared<Segment>();
  segment->number = next_segment++;
  segment->path = options.folder + "/" + segment_name(segment->number);
  KVASIR_TRY(segment->file, options.files->create(segment->path));
  auto header = encode_segment_header(
      {segment->number, now(), options.model, options.page_tokens, options.section_bytes});
  iovec part = part_of(header);
  Status status = segment->file->write(0, {&part, 1});
  if (status) status = segment->file->sync();
  if (status) status = options.files->sync_folder(options.folder);
  if (!status) {
    (void)options.files->remove(segment->path);  // what stays is an empty segment, which says nothing
    return status;
  }
  segment->bytes = active_end = kSegmentHeaderBytes;
  active = segment;
  std::lock_guard lock(mutex);
  segments[segment->number] = segment;
  return {};
}

// From here on the records are in the index: acknowledged.
Status DiskStore::Impl::sync_segment() {
  if (!active || unsynced.empty()) return {};
  KVASIR_TRY_STATUS(active->file->sync());
  std::lock_guard lock(mutex);
  counters.written_bytes += active_end - active->bytes;
  active->bytes = active_end;
  for (Unsynced& u : unsynced) {
    if (u.head.kind == RecordKind::kMarks) active->marks_bytes += std::ssize(u.located.bytes);
    index(u.head, u.located, active);
    active->heads.push_back(std::move(u.located));
  }
  unsynced.clear();
  return {};
}

Status DiskStore::Impl::seal() {
  auto footer = encode_footer(active->heads, active_end);
  iovec part = part_of(footer);
  Status status = active->file->write(active_end, {&part, 1});
  if (status) status = active->file->sync();
  if (!status) (void)active->file->truncate(active_end);  // it is read head by head then
  std::lock_guard lock(mutex);
  if (status) active->bytes += std::ssize(footer);
  active->sealed = true;
  active->data_end = active_end;
  active->heads.clear();
  active.reset();
  return {};  // a footer saves time at the next open, nothing else
}

// After a failed write or sync nothing behind the last sync can be relied on. What was synced stays readable.
void DiskStore::Impl::abandon(const Error&) {
  unsynced.clear();
  if (!active) return;
  (void)active->file->truncate(active->bytes);
  std::lock_guard lock(mutex);
  active->sealed = true;
  active->data_end = active->bytes;
  active->heads.clear();
  if (active->bytes == kSegmentHeaderBytes && options.files->remove(active->path))
    segments.erase(active->number);
  active.reset();
}

Status DiskStore::Impl::write_marks(const std::vector<RecordId>& ids) {
  for (size_t begin = 0; begin < ids.size(); begin += kMarksPerRecord) {
    RecordHead head;
    head.kind = RecordKind::kMarks;
    head.present = 1;
    {
      std::lock_guard lock(mutex);
      for (size_t i = begin; i < std::min(ids.size(), begin + kMarksPerRecord); ++i) {
        auto it = entries.find(ids[i]);
        if (it == entries.end()) continue;
        DiskEntry& e = it->second;
        e.marked = true;
        head.marks.push_back({ids[i], e.dead, e.last_used, e.worth.hits, e.worth.weight, e.worth.kept});
      }
      head.id = RecordId(next_id++);
    }
    if (head.marks.empty()) continue;
    Status status = write_record(head, {});
    if (status) status = sync_segment();
    if (!status) {
      abandon(status.error());
      return status;
    }
  }
  return {};
}

}  // namespace kvasir
