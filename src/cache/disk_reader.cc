// The reading threads. A read is cut into tasks, the snapshot first and then section by section over all
// records, so that the first layers are there while the last ones are still on their way; each task is one
// large request.
#include <numeric>
#include <tuple>

#include "cache/disk_store_impl.h"

namespace kvasir {
namespace {

// What one read wants of one record.
struct RecordRead {
  RecordId id{};
  std::shared_ptr<Segment> segment;
  int64_t offset = 0, head_bytes = 0, payload_bytes = 0;
  RecordKind kind = RecordKind::kExtent;
  struct Page {
    int slot = 0;
    std::byte* to = nullptr;
    size_t item = 0;
  };
  std::vector<Page> pages;

  std::once_flag once;
  std::optional<RecordHead> head;  // empty after `once`: it is not what the index says
};

}  // namespace

struct DiskStore::Impl::ReadTask {
  std::shared_ptr<DiskRead> read;
  std::shared_ptr<RecordRead> record;
  int first_section = 0, end_section = 0;
};

DiskRead::DiskRead() : shared_(std::make_unique<Shared>()) {}
DiskRead::~DiskRead() = default;

bool DiskRead::done() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->tasks == 0;
}
int DiskRead::sections_ready() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->sections_ready;
}
void DiskRead::wait_section(int section) {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [&] { return shared_->sections_ready > section || shared_->tasks == 0; });
}
void DiskRead::wait() {
  std::unique_lock lock(shared_->mutex);
  shared_->changed.wait(lock, [&] { return shared_->tasks == 0; });
}
bool DiskRead::arrived(size_t item) const {
  std::lock_guard lock(shared_->mutex);
  return shared_->good.at(item) != 0;
}
std::shared_ptr<const std::vector<std::byte>> DiskRead::snapshot() const {
  std::lock_guard lock(shared_->mutex);
  return shared_->snapshot;
}

namespace {

// Whether the head on disk is still the one in the index.
const RecordHead* head_of(RecordRead& r, const DiskOptions& options) {
  std::call_once(r.once, [&] {
    std::vector<std::byte> bytes(r.head_bytes);
    iovec part{bytes.data(), bytes.size()};
    if (!r.segment->file->read(r.offset, {&part, 1})) return;
    auto head = decode_head(bytes, options.page_tokens, options.section_bytes.size());
    if (head && head->id == r.id && head->kind == r.kind && head->payload_bytes == r.payload_bytes)
      r.head = std::move(*head);
  });
  return r.head ? &*r.head : nullptr;
}

std::shared_ptr<const std::vector<std::byte>> read_whole(RecordRead& r, const DiskOptions& options) {
  const RecordHead* head = head_of(r, options);
  if (head == nullptr) return nullptr;
  auto bytes = std::make_shared<std::vector<std::byte>>(r.payload_bytes);
  iovec part{bytes->data(), bytes->size()};
  if (!r.segment->file->read(r.offset + r.head_bytes, {&part, 1})) return nullptr;
  uint64_t expected = head->kind == RecordKind::kNote ? head->note.checksum : head->snapshot.checksum;
  return checksum_of(*bytes) == expected ? bytes : nullptr;
}

int rank_of(uint64_t present, int slot) {
  return __builtin_popcountll(present & ((uint64_t{1} << slot) - 1));
}

// Sections [first, end) of the wanted pages, straight to where they belong. Returns the items that did not
// arrive.
std::vector<size_t> read_sections(RecordRead& r, int first, int end, const DiskOptions& options) {
  std::vector<size_t> bad;
  const RecordHead* head = head_of(r, options);
  auto all_bad = [&] {
    bad.clear();
    for (const auto& page : r.pages) bad.push_back(page.item);
    return bad;
  };
  if (head == nullptr) return all_bad();
  for (const auto& page : r.pages) {
    if ((head->present >> page.slot & 1) == 0) return all_bad();
  }
  int64_t pages = head->present_pages();
  bool everything = static_cast<int64_t>(r.pages.size()) == pages;
  int64_t before =
      std::accumulate(options.section_bytes.begin(), options.section_bytes.begin() + first, int64_t{0});
  int64_t file_at = r.offset + r.head_bytes + before * pages;
  std::vector<iovec> parts;
  auto read_parts = [&](int64_t at) {
    bool read = static_cast<bool>(r.segment->file->read(at, parts));
    parts.clear();
    return read;
  };
  int64_t page_at = before;
  for (int s = first; s < end; ++s) {
    int64_t bytes = options.section_bytes[s];
    int64_t begin = -1;
    for (size_t i = 0; i < r.pages.size(); ++i) {
      int rank = rank_of(head->present, r.pages[i].slot);
      bool gap = i > 0 && rank != rank_of(head->present, r.pages[i - 1].slot) + 1;
      if (gap && !everything) {
        if (!read_parts(begin)) return all_bad();
        begin = -1;
      }
      if (begin < 0) begin = file_at + (page_at - before) * pages + rank * bytes;
      parts.push_back({r.pages[i].to + page_at, static_cast<size_t>(bytes)});
    }
    if (!everything && !read_parts(begin)) return all_bad();
    page_at += bytes;
  }
  if (everything && !read_parts(file_at)) return all_bad();
  page_at = before;
  for (int s = first; s < end; ++s) {
    for (const auto& page : r.pages) {
      std::span<const std::byte> got(page.to + page_at, options.section_bytes[s]);
      if (checksum_of(got) != head->extent.checksums[s * pages + rank_of(head->present, page.slot)])
        bad.push_back(page.item);
    }
    page_at += options.section_bytes[s];
  }
  return bad;
}

}  // namespace

std::shared_ptr<DiskRead> DiskStore::read(std::vector<PageToRead> pages, std::optional<RecordId> snapshot) {
  auto read = std::make_shared<DiskRead>();
  DiskRead::Shared& shared = read->shared();
  auto sections = static_cast<int>(impl_->options.section_bytes.size());
  shared.waiting.assign(sections, 0);
  shared.good.assign(pages.size(), 0);
  std::vector<std::shared_ptr<RecordRead>> records;
  std::unordered_map<RecordId, RecordRead*> by_id;
  auto record_of = [&](RecordId id, uint64_t slots) -> RecordRead* {
    auto it = impl_->entries.find(id);
    if (it == impl_->entries.end() || (it->second.live() & slots) != slots) return nullptr;
    RecordRead*& r = by_id[id];
    if (r != nullptr) return r;
    const DiskEntry& e = it->second;
    records.push_back(std::make_shared<RecordRead>());
    r = records.back().get();
    r->id = id;
    r->segment = e.segment;
    r->offset = e.offset;
    r->head_bytes = e.head_bytes;
    r->payload_bytes = e.payload_bytes;
    r->kind = e.kind;
    return r;
  };

  std::lock_guard lock(impl_->mutex);
  using Task = Impl::ReadTask;
  std::vector<std::shared_ptr<Task>> tasks;
  if (snapshot && record_of(*snapshot, 1) != nullptr)
    tasks.push_back(std::make_shared<Task>(Task{read, records.back(), 0, 0}));
  size_t first_extent = records.size();
  for (size_t i = 0; i < pages.size(); ++i) {
    RecordRead* r = record_of(pages[i].id, uint64_t{1} << pages[i].slot);
    if (r != nullptr) r->pages.push_back({pages[i].slot, pages[i].to, i});
  }
  for (size_t i = first_extent; i < records.size(); ++i) {
    auto& r = records[i];
    std::sort(r->pages.begin(), r->pages.end(), [](const auto& a, const auto& b) { return a.slot < b.slot; });
    for (int s = 0; s < sections;) {
      int begin = s;
      int64_t bytes = 0;
      while (s < sections && (s == begin || bytes + impl_->options.section_bytes[s] * std::ssize(r->pages) <=
                                                impl_->options.request_bytes)) {
        bytes += impl_->options.section_bytes[s++] * std::ssize(r->pages);
      }
      tasks.push_back(std::make_shared<Task>(Task{read, r, begin, s}));
      for (int t = begin; t < s; ++t) ++shared.waiting[t];
    }
    for (const auto& page : r->pages) shared.good[page.item] = 1;  // until a part of it is not
  }
  auto place = [](const auto& task) {
    return std::tuple(task->end_section > 0, task->first_section, task->record->segment->number,
                      task->record->offset);
  };
  std::sort(tasks.begin(), tasks.end(), [&](const auto& a, const auto& b) { return place(a) < place(b); });
  shared.tasks = static_cast<int>(tasks.size());
  while (shared.sections_ready < sections && shared.waiting[shared.sections_ready] == 0)
    ++shared.sections_ready;
  impl_->reads.insert(impl_->reads.end(), tasks.begin(), tasks.end());
  impl_->reader_wakes.notify_all();
  return read;
}

void DiskStore::Impl::read_loop() {
  std::unique_lock lock(mutex);
  while (true) {
    reader_wakes.wait(lock, [&] { return stop || !reads.empty(); });
    if (reads.empty()) return;
    auto task = std::move(reads.front());
    reads.pop_front();
    lock.unlock();

    RecordRead& r = *task->record;
    DiskRead::Shared& shared = task->read->shared();
    std::shared_ptr<const std::vector<std::byte>> whole;
    std::vector<size_t> bad;
    uint64_t lost = 0;
    int64_t bytes = 0;
    if (task->end_section == 0) {
      whole = read_whole(r, options);
      lost = whole ? 0 : 1;
      bytes = r.payload_bytes;
    } else {
      bad = read_sections(r, task->first_section, task->end_section, options);
      for (const auto& page : r.pages) {
        if (std::ranges::find(bad, page.item) != bad.end()) lost |= uint64_t{1} << page.slot;
      }
      for (int s = task->first_section; s < task->end_section; ++s)
        bytes += options.section_bytes[s] * std::ssize(r.pages);
    }
    // The store knows of the loss before the reader of the pages does.
    lock.lock();
    counters.read_bytes += bytes;
    if (lost != 0) lose(r.id, lost, lock);
    lock.unlock();
    {
      std::lock_guard own(shared.mutex);
      if (whole) shared.snapshot = std::move(whole);
      for (size_t item : bad) shared.good[item] = 0;
      for (int s = task->first_section; s < task->end_section; ++s) --shared.waiting[s];
      bool whole_so_far = std::ranges::all_of(shared.good, [](char g) { return g != 0; });
      while (whole_so_far && shared.sections_ready < std::ssize(shared.waiting) &&
             shared.waiting[shared.sections_ready] == 0)
        ++shared.sections_ready;
      --shared.tasks;
      shared.changed.notify_all();
    }
    task.reset();
    lock.lock();
  }
}

}  // namespace kvasir
