// Opening a folder, the index, and what callers ask; see disk_store.h and disk_store_impl.h.
#include "cache/disk_store.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <numeric>

#include "base/check.h"
#include "base/clock.h"
#include "cache/disk_store_impl.h"

namespace kvasir {
namespace {

constexpr int64_t kLeastSegment = int64_t{1} << 20;
constexpr int64_t kMostSegment = int64_t{4} << 30;

}  // namespace

Result<std::string> cache_folder(const std::string& given) {
  if (!given.empty()) return given;
  if (const char* home = std::getenv("HOME"); home && *home) return std::string(home) + "/.cache/kvasir";
  return Error{
      ErrorCode::kInvalid,
      "no HOME to keep the cache under: name a folder (cache.dir, --cache-dir), or set cache.disk = false"};
}

DiskStore::Impl::Impl(DiskOptions options_in) : options(std::move(options_in)) {
  KVASIR_CHECK(options.page_tokens > 0 && !options.section_bytes.empty(),
               "a disk tier without a page's shape");
  if (options.files == nullptr) options.files = &system_files();
  if (!options.unix_seconds) {
    options.unix_seconds = kvasir::unix_seconds;
  }
  if (!options.monotonic_ms) {
    options.monotonic_ms = [] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(
                 std::chrono::steady_clock::now().time_since_epoch())
          .count();
    };
  }
  // Few enough to keep open, small enough to evict by.
  if (options.segment_bytes == 0)
    options.segment_bytes = std::clamp(options.max_bytes / 64, kLeastSegment, kMostSegment);
  options.segment_bytes = std::max(std::min(options.segment_bytes, options.max_bytes / 8), int64_t{4096});
}

DiskStore::Impl::~Impl() {
  {
    std::lock_guard lock(mutex);
    stop = true;
  }
  writer_wakes.notify_all();
  reader_wakes.notify_all();
  if (writer.joinable()) writer.join();
  for (std::thread& reader : readers) reader.join();
}

Status DiskStore::Impl::open() {
  if (!options.read_only) {
    KVASIR_TRY_STATUS(options.files->make_folder(options.folder));
    KVASIR_TRY(folder_lock, FolderLock::take(options.folder));
  }
  KVASIR_TRY(auto files, options.files->list(options.folder));
  std::vector<Mark> marks;
  for (const DiskFiles::Entry& file : files) {
    auto number = segment_number(file.name);
    if (!number) continue;
    next_segment = std::max(next_segment, *number + 1);
    // A segment that cannot be read is as good as none; the others can.
    if (Status status = open_segment(file, *number, marks); !status) {
      ++counters.corrupt_records;
      counters.last_error = status.error().message;
    }
  }
  for (const Mark& m : marks) {
    next_id = std::max(next_id, static_cast<uint64_t>(m.id) + 1);
    auto it = entries.find(m.id);
    if (it == entries.end()) continue;
    DiskEntry& e = it->second;
    e.dead |= m.dead;
    e.last_used = m.last_used;
    e.worth = {m.hits, m.weight, m.kept};
    e.marked = true;
  }
  std::erase_if(notes, [&](const auto& note) { return entries.at(note.second).live() == 0; });
  std::erase_if(found, [&](RecordHead& head) {
    const DiskEntry& e = entries.at(head.id);
    head.present = e.live();
    head.hits = e.worth.hits;
    head.weight = e.worth.weight;
    head.kept = e.worth.kept;
    head.last_used = e.last_used;
    return head.present == 0;
  });
  for (int i = 0; i < std::max(1, options.read_threads); ++i) readers.emplace_back([this] { read_loop(); });
  if (!options.read_only) writer = std::thread([this] { write_loop(); });
  return {};
}

Status DiskStore::Impl::open_segment(const DiskFiles::Entry& found_file, uint64_t number,
                                     std::vector<Mark>& marks) {
  auto segment = std::make_shared<Segment>();
  segment->number = number;
  segment->path = options.folder + "/" + found_file.name;
  auto file = options.files->open(segment->path, !options.read_only);
  if (!file) file = options.files->open(segment->path, false);  // a folder that may only be read
  if (!file) return file.error();
  segment->file = std::move(*file);
  KVASIR_TRY(int64_t size, segment->file->size());
  std::vector<std::byte> bytes(std::min(size, kSegmentHeaderBytes));
  iovec part{bytes.data(), bytes.size()};
  KVASIR_TRY_STATUS(segment->file->read(0, {&part, 1}));
  auto header = decode_segment_header(bytes);
  bool ours = header && header->number == number && header->model.same_numbers(options.model) &&
              header->page_tokens == options.page_tokens && header->section_bytes == options.section_bytes;
  if (!ours) {
    // Another model's, another format's, or one whose writer did not get past its header: left alone.
    if (!header && header.error().code != ErrorCode::kUnsupported && size > 0) ++counters.corrupt_records;
    foreign.push_back(found_file);
    return {};
  }
  auto visit = [&](const RecordHead& head, LocatedHead located) {
    if (head.kind == RecordKind::kMarks) {
      marks.insert(marks.end(), head.marks.begin(), head.marks.end());
      segment->marks_bytes += std::ssize(located.bytes);
    }
    if (index(head, located, segment)) {
      // Twice the same id: its writer died between rewriting it and removing the old segment. They agree; the
      // later stays.
      std::erase_if(found, [&](const RecordHead& f) { return f.id == head.id; });
      if (head.kind == RecordKind::kExtent || head.kind == RecordKind::kSnapshot) found.push_back(head);
    }
    segment->heads.push_back(std::move(located));
  };
  KVASIR_TRY(SegmentScan scan,
             scan_segment(*segment->file, options.page_tokens, options.section_bytes.size(), visit));
  counters.corrupt_records += scan.torn;
  segment->bytes = size;
  if (!options.read_only && !scan.sealed) mend(*segment, scan);
  segment->sealed = true;
  segment->data_end = scan.end;
  segment->heads.clear();
  segments[number] = std::move(segment);
  return {};
}

// Cuts off what was not finished when its writer died and gives the segment its footer. Nothing depends on
// its success.
void DiskStore::Impl::mend(Segment& segment, const SegmentScan& scan) {
  int64_t end = padded(scan.end);
  auto footer = encode_footer(segment.heads, end);
  iovec part{footer.data(), footer.size()};
  if (!segment.file->truncate(scan.end) || !segment.file->truncate(end)) return;
  if (segment.file->write(end, {&part, 1}) && segment.file->sync()) segment.bytes = end + std::ssize(footer);
}

bool DiskStore::Impl::index(const RecordHead& head, const LocatedHead& located,
                            const std::shared_ptr<Segment>& segment) {
  next_id = std::max(next_id, static_cast<uint64_t>(head.id) + 1);
  if (head.kind == RecordKind::kMarks || head.kind == RecordKind::kFooter) return false;
  if (head.kind == RecordKind::kExtent) {
    int64_t page = std::accumulate(options.section_bytes.begin(), options.section_bytes.end(), int64_t{0});
    if (head.payload_bytes != page * head.present_pages()) {
      ++counters.corrupt_records;
      return false;
    }
  }
  DiskEntry e;
  e.kind = head.kind;
  e.segment = segment;
  e.offset = located.offset;
  e.head_bytes = std::ssize(located.bytes);
  e.payload_bytes = head.payload_bytes;
  e.present = head.present;
  e.last_used = head.last_used;
  e.worth = {head.hits, head.weight, head.kept};
  e.depth = head.kind == RecordKind::kExtent ? head.extent.first * options.page_tokens : head.snapshot.length;
  e.note_key = head.note.key;
  if (auto old = entries.find(head.id); old != entries.end())
    e.dead = old->second.dead & e.present;  // dropped while it moved
  entries[head.id] = e;
  if (head.kind != RecordKind::kNote) return true;
  auto [it, fresh] = notes.try_emplace(head.note.key, head.id);
  if (fresh || it->second == head.id) return true;
  // The later one holds. The other is marked, or it would return when the later one is removed.
  RecordId outdated = std::min(it->second, head.id);
  it->second = std::max(it->second, head.id);
  entries.at(outdated).dead = 1;
  dirty.insert(outdated);
  return true;
}

DiskStore::DiskStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DiskStore::~DiskStore() = default;

Result<std::unique_ptr<DiskStore>> DiskStore::open(DiskOptions options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  KVASIR_TRY_STATUS(impl->open());
  return std::unique_ptr<DiskStore>(new DiskStore(std::move(impl)));
}

const DiskOptions& DiskStore::options() const { return impl_->options; }

std::vector<RecordHead> DiskStore::take_found() {
  std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->found, {});
}

std::optional<RecordId> DiskStore::Impl::put(Job job) {
  std::lock_guard lock(mutex);
  bool full = counters.queued_bytes > 0 && counters.queued_bytes + job.size > options.queue_bytes;
  if (options.read_only || full || failing() || stop) {
    ++counters.refused_puts;
    return {};
  }
  RecordId id{next_id++};
  job.head.id = id;
  job.head.last_used = now();
  counters.queued_bytes += job.size;
  queue.push_back(std::move(job));
  writer_wakes.notify_one();
  return id;
}

std::optional<RecordId> DiskStore::put_pages(ExtentHead extent, std::vector<const std::byte*> pages,
                                             DiskWorth worth) {
  auto count = std::ssize(pages);
  KVASIR_CHECK(count >= 1 && count <= kMaxExtentPages &&
                   std::ssize(extent.tokens) == count * impl_->options.page_tokens,
               "an extent of {} pages and {} tokens", count, extent.tokens.size());
  Impl::Job job;
  job.head.kind = RecordKind::kExtent;
  job.head.present = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  job.head.hits = worth.hits;
  job.head.weight = worth.weight;
  job.head.kept = worth.kept;
  job.head.extent = std::move(extent);
  for (int64_t section : impl_->options.section_bytes) job.size += section * count;
  job.pages = std::move(pages);
  return impl_->put(std::move(job));
}

std::optional<RecordId> DiskStore::put_snapshot(SnapshotHead snapshot,
                                                std::shared_ptr<const std::vector<std::byte>> state,
                                                DiskWorth worth) {
  Impl::Job job;
  job.head.kind = RecordKind::kSnapshot;
  job.head.present = 1;
  job.head.hits = worth.hits;
  job.head.weight = worth.weight;
  job.head.kept = worth.kept;
  job.head.snapshot = std::move(snapshot);
  job.size = std::ssize(*state);
  job.bytes = std::move(state);
  return impl_->put(std::move(job));
}

Status DiskStore::put_note(std::string_view key, std::span<const std::byte> value) {
  if (value.empty()) {
    (void)flush();  // one that is still queued has to be known first; whether it arrives does not matter
    std::unique_lock lock(impl_->mutex);
    auto it = impl_->notes.find(key);
    if (it == impl_->notes.end()) return {};
    RecordId id = it->second;
    lock.unlock();
    drop(id, 1);
    return {};
  }
  Impl::Job job;
  job.head.kind = RecordKind::kNote;
  job.head.present = 1;
  job.head.note.key = key;
  job.bytes = std::make_shared<const std::vector<std::byte>>(value.begin(), value.end());
  job.size = std::ssize(value);
  if (impl_->put(std::move(job))) return {};
  return Error{ErrorCode::kBusy, "the disk tier takes no notes now: " + metrics().last_error};
}

void DiskStore::for_each_note(
    const std::function<void(std::string_view, std::span<const std::byte>)>& visit) {
  if (!impl_->options.read_only) (void)flush();
  std::vector<RecordId> ids;
  {
    std::lock_guard lock(impl_->mutex);
    for (const auto& [key, id] : impl_->notes) ids.push_back(id);
  }
  for (RecordId id : ids) {
    auto read = this->read({}, id);
    read->wait();
    std::string key;
    {
      std::lock_guard lock(impl_->mutex);
      auto it = impl_->entries.find(id);
      if (it != impl_->entries.end()) key = it->second.note_key;
    }
    if (auto value = read->snapshot()) visit(key, *value);
  }
}

std::vector<DiskEvent> DiskStore::take_events() {
  std::lock_guard lock(impl_->mutex);
  return std::exchange(impl_->events, {});
}

void DiskStore::wait_event() {
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(
      lock, [&] { return !impl_->events.empty() || (impl_->queue.empty() && impl_->in_flight == 0); });
}

Status DiskStore::flush() {
  std::unique_lock lock(impl_->mutex);
  if (impl_->options.read_only)
    return Error{ErrorCode::kUnsupported, impl_->options.folder + ": opened for reading only"};
  uint64_t mine = ++impl_->flush_wanted;
  impl_->writer_wakes.notify_one();
  impl_->changed.wait(lock, [&] { return impl_->flush_done >= mine; });
  return std::exchange(impl_->flush_status, Status());
}

void DiskStore::touch(RecordId id, DiskWorth worth) {
  std::lock_guard lock(impl_->mutex);
  auto it = impl_->entries.find(id);
  if (it == impl_->entries.end()) return;
  it->second.worth = worth;
  it->second.last_used = impl_->now();
  impl_->dirty.insert(id);
}

void DiskStore::drop(RecordId id, uint64_t slots) {
  std::lock_guard lock(impl_->mutex);
  auto it = impl_->entries.find(id);
  if (it == impl_->entries.end()) return;
  it->second.dead |= slots & it->second.present;
  if (it->second.kind == RecordKind::kNote && it->second.live() == 0) impl_->notes.erase(it->second.note_key);
  impl_->dirty.insert(id);
  impl_->dropped = true;
  impl_->writer_wakes.notify_one();
}

// Bytes that turned out to be wrong or unreadable.
void DiskStore::Impl::lose(RecordId id, uint64_t slots, std::unique_lock<std::mutex>&) {
  auto it = entries.find(id);
  if (it == entries.end() || (it->second.live() & slots) == 0) return;
  ++counters.corrupt_records;
  it->second.dead |= slots & it->second.present;
  if (it->second.kind == RecordKind::kNote) notes.erase(it->second.note_key);
  dirty.insert(id);
  events.push_back({DiskEvent::Kind::kLost, id, slots});
  changed.notify_all();
}

DiskMetrics DiskStore::metrics() const {
  std::lock_guard lock(impl_->mutex);
  DiskMetrics m = impl_->counters;
  for (const auto& [id, e] : impl_->entries) {
    m.pages += e.kind == RecordKind::kExtent ? __builtin_popcountll(e.live()) : 0;
    m.snapshots += e.kind == RecordKind::kSnapshot && e.live() != 0 ? 1 : 0;
    m.live_bytes += e.live_bytes();
  }
  m.notes = std::ssize(impl_->notes);
  m.segments = std::ssize(impl_->segments);
  m.bytes = impl_->total_bytes();
  for (const auto& f : impl_->foreign) m.foreign_bytes += f.bytes;
  return m;
}

void DiskStore::drop_cached() {
  std::lock_guard lock(impl_->mutex);
  for (const auto& [number, segment] : impl_->segments) segment->file->drop_cached();
}

}  // namespace kvasir
