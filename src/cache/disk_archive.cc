// Inspecting, exporting and importing; see disk_archive.h.
#include "cache/disk_archive.h"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "io/file.h"

namespace kvasir {
namespace {

iovec part_of(std::span<std::byte> bytes) { return {bytes.data(), bytes.size()}; }

Result<SegmentHeader> read_header(DiskFile& file) {
  KVASIR_TRY(int64_t size, file.size());
  std::vector<std::byte> bytes(std::min(size, kSegmentHeaderBytes));
  iovec part = part_of(bytes);
  KVASIR_TRY_STATUS(file.read(0, {&part, 1}));
  return decode_segment_header(bytes);
}

Result<std::unique_ptr<DiskStore>> open_to_read(const std::string& folder, const FolderModel& model) {
  DiskOptions options = model.options(folder);
  options.read_only = true;
  return DiskStore::open(std::move(options));
}

// The hash of every span of an extent.
std::vector<SpanHash> hashes_of(const ExtentHead& e, int64_t page_tokens) {
  std::vector<SpanHash> hashes;
  SpanHash at = e.before;
  for (int64_t i = 0; (i + 1) * page_tokens <= std::ssize(e.tokens); ++i) {
    at = next_hash(at, std::span(e.tokens).subspan(i * page_tokens, page_tokens));
    hashes.push_back(at);
  }
  return hashes;
}

// An extent or snapshot with its bytes, all right.
struct WholeRecord {
  RecordHead head;
  std::vector<std::byte> bytes;               // of a snapshot
  std::vector<std::vector<std::byte>> pages;  // of an extent, those present
};

std::vector<DiskStore::PageToRead> pages_of(WholeRecord& r, int64_t page_bytes) {
  std::vector<DiskStore::PageToRead> want;
  r.pages.resize(r.head.present_pages());
  for (int slot = 0; slot < kMaxExtentPages; ++slot) {
    if ((r.head.present >> slot & 1) == 0) continue;
    auto& page = r.pages[want.size()];
    page.resize(page_bytes);
    want.push_back({r.head.id, slot, page.data()});
  }
  return want;
}

class ArchiveWriter {
 public:
  ArchiveWriter(AtomicFile file, const FolderModel& model) : file_(std::move(file)), model_(model) {}

  Status begin() {
    SegmentHeader header{1, 0, model_.model, model_.page_tokens, model_.section_bytes};
    return append(encode_segment_header(header));
  }
  Status add(WholeRecord& r) {
    std::vector<std::byte> payload;
    if (r.head.kind == RecordKind::kSnapshot) {
      payload = r.bytes;
      r.head.snapshot.checksum = checksum_of(payload);
      ++report_.snapshots;
    } else {
      r.head.extent.checksums.clear();
      int64_t at = 0;
      for (int64_t section : model_.section_bytes) {
        for (const auto& page : r.pages) {
          auto bytes = std::span(page).subspan(at, section);
          r.head.extent.checksums.push_back(checksum_of(bytes));
          payload.insert(payload.end(), bytes.begin(), bytes.end());
        }
        at += section;
      }
      report_.pages += std::ssize(r.pages);
    }
    r.head.payload_bytes = std::ssize(payload);
    r.head.id = RecordId(heads_.size() + 1);
    heads_.push_back({offset_, encode_head(r.head)});
    KVASIR_TRY_STATUS(append(heads_.back().bytes));
    payload.resize(padded(std::ssize(payload)));
    return append(payload);
  }
  Result<ArchiveReport> commit() {
    KVASIR_TRY_STATUS(append(encode_footer(heads_, offset_)));
    KVASIR_TRY_STATUS(file_.commit());
    report_.bytes = offset_;
    return report_;
  }

 private:
  Status append(std::span<const std::byte> bytes) {
    offset_ += std::ssize(bytes);
    return file_.write(bytes);
  }
  AtomicFile file_;
  const FolderModel& model_;
  std::vector<LocatedHead> heads_;
  int64_t offset_ = 0;
  ArchiveReport report_;
};

}  // namespace

int64_t FolderModel::page_bytes() const {
  return std::accumulate(section_bytes.begin(), section_bytes.end(), int64_t{0});
}

DiskOptions FolderModel::options(const std::string& folder) const {
  DiskOptions o;
  o.folder = folder;
  o.max_bytes = int64_t{1} << 60;  // a look or an import evicts nothing
  o.model = model;
  o.page_tokens = page_tokens;
  o.section_bytes = section_bytes;
  return o;
}

Result<std::vector<FolderModel>> folder_models(const std::string& folder) {
  KVASIR_TRY(auto files, system_files().list(folder));
  std::vector<FolderModel> models;
  for (const auto& entry : files) {
    if (!segment_number(entry.name)) continue;
    auto file = system_files().open(folder + "/" + entry.name, false);
    if (!file) continue;  // removed meanwhile by its owner
    auto header = read_header(**file);
    if (!header) continue;  // another format's, or torn
    auto same = std::ranges::find_if(models, [&](const FolderModel& m) {
      return m.model.same_numbers(header->model) && m.page_tokens == header->page_tokens &&
             m.section_bytes == header->section_bytes;
    });
    if (same == models.end())
      same = models.insert(models.end(), {header->model, header->page_tokens, header->section_bytes, 0, 0});
    ++same->segments;
    same->bytes += entry.bytes;
  }
  return models;
}

Result<VerifyReport> verify_folder(const std::string& folder, const FolderModel& model) {
  KVASIR_TRY(auto store, open_to_read(folder, model));
  VerifyReport report;
  report.lost = store->metrics().corrupt_records;
  int64_t notes = store->metrics().notes;
  for (RecordHead& head : store->take_found()) {
    WholeRecord r{std::move(head), {}, {}};
    bool extent = r.head.kind == RecordKind::kExtent;
    auto want = extent ? pages_of(r, model.page_bytes()) : std::vector<DiskStore::PageToRead>();
    size_t count = want.size();
    auto read = store->read(std::move(want), extent ? std::nullopt : std::optional(r.head.id));
    read->wait();
    for (size_t i = 0; i < count; ++i) ++(read->arrived(i) ? report.pages : report.lost);
    if (!extent) ++(read->snapshot() ? report.snapshots : report.lost);
  }
  store->for_each_note([&](std::string_view, std::span<const std::byte>) { ++report.notes; });
  report.lost += notes - report.notes;
  return report;
}

Result<std::vector<PrefixInfo>> folder_prefixes(const std::string& folder, const FolderModel& model) {
  KVASIR_TRY(auto store, open_to_read(folder, model));
  PagePool pool(model.page_bytes(), 0);
  PrefixCache cache(pool, store.get(),
                    {.page_tokens = model.page_tokens, .section_bytes = model.section_bytes});
  return cache.list();
}

Result<ArchiveReport> export_folder(const std::string& folder, const FolderModel& model,
                                    const std::optional<SpanHash>& id, const std::string& path) {
  KVASIR_TRY(auto store, open_to_read(folder, model));
  auto found = store->take_found();
  // The way to `id`, back from it.
  std::set<SpanHash> wanted;
  if (id) {
    std::unordered_map<SpanHash, SpanHash> before;
    for (const RecordHead& head : found) {
      if (head.kind != RecordKind::kExtent) continue;
      SpanHash at = head.extent.before;
      for (SpanHash hash : hashes_of(head.extent, model.page_tokens)) before[hash] = std::exchange(at, hash);
    }
    if (!before.contains(*id))
      return Error{ErrorCode::kNotFound, fmt::format("{}: no prefix {}", folder, id->text())};
    wanted.insert(*id);
    for (auto at = before.find(*id); at != before.end(); at = before.find(at->second))
      wanted.insert(at->second);
  }
  KVASIR_TRY(AtomicFile file, AtomicFile::create(path));
  ArchiveWriter writer(std::move(file), model);
  KVASIR_TRY_STATUS(writer.begin());
  for (RecordHead& head : found) {
    WholeRecord r{std::move(head), {}, {}};
    bool extent = r.head.kind == RecordKind::kExtent;
    if (id && extent) {
      auto hashes = hashes_of(r.head.extent, model.page_tokens);
      uint64_t mask = 0;
      int64_t count = 0;
      for (size_t i = 0; i < hashes.size(); ++i) {
        if (!wanted.contains(hashes[i])) continue;
        mask |= uint64_t{1} << i;
        count = static_cast<int64_t>(i) + 1;
      }
      r.head.present &= mask;
      if (r.head.present == 0) continue;
      r.head.extent.tokens.resize(count * model.page_tokens);  // what others said afterwards stays here
    }
    if (id && !extent && !wanted.contains(r.head.snapshot.before)) continue;
    auto want = extent ? pages_of(r, model.page_bytes()) : std::vector<DiskStore::PageToRead>();
    size_t count = want.size();
    auto read = store->read(std::move(want), extent ? std::nullopt : std::optional(r.head.id));
    read->wait();
    bool whole = extent || read->snapshot() != nullptr;
    for (size_t i = 0; i < count; ++i) whole = whole && read->arrived(i);
    if (!whole)
      return Error{ErrorCode::kIo,
                   fmt::format("{}: record {} is corrupt; `kvasir cache verify` says how much is", folder,
                               static_cast<uint64_t>(r.head.id))};
    if (!extent) r.bytes = *read->snapshot();
    KVASIR_TRY_STATUS(writer.add(r));
  }
  return writer.commit();
}

namespace {

// The record at `located`, its bytes checked.
Result<WholeRecord> read_record(DiskFile& file, const SegmentHeader& header, const RecordHead& head,
                                const LocatedHead& located, const std::string& path) {
  WholeRecord r{head, std::vector<std::byte>(head.payload_bytes), {}};
  Error wrong{ErrorCode::kInvalid, fmt::format("{}: the record at {} is corrupt", path, located.offset)};
  std::vector<std::byte> own_head(located.bytes.size());  // the footer's copy is what was read so far
  iovec parts[] = {part_of(own_head), part_of(r.bytes)};
  KVASIR_TRY_STATUS(file.read(located.offset, parts));
  if (own_head != located.bytes) return wrong;
  if (head.kind == RecordKind::kSnapshot) {
    if (checksum_of(r.bytes) != head.snapshot.checksum) return wrong;
    return r;
  }
  int64_t page_bytes = std::accumulate(header.section_bytes.begin(), header.section_bytes.end(), int64_t{0});
  int64_t count = head.present_pages();
  if (head.payload_bytes != page_bytes * count) return wrong;
  r.pages.assign(count, {});
  int64_t at = 0;
  size_t sum = 0;
  for (int64_t section : header.section_bytes) {
    for (auto& page : r.pages) {
      auto bytes = std::span(r.bytes).subspan(at, section);
      if (checksum_of(bytes) != head.extent.checksums[sum++]) return wrong;
      page.insert(page.end(), bytes.begin(), bytes.end());
      at += section;
    }
  }
  return r;
}

}  // namespace

Result<ArchiveReport> import_folder(const std::string& folder, const std::string& path) {
  KVASIR_TRY(auto file, system_files().open(path, false));
  KVASIR_TRY(SegmentHeader header, read_header(*file));
  FolderModel model{header.model, header.page_tokens, header.section_bytes, 0, 0};
  std::vector<std::pair<RecordHead, LocatedHead>> records;
  KVASIR_TRY(SegmentScan scan, scan_segment(*file, header.page_tokens, header.section_bytes.size(),
                                            [&](const RecordHead& head, LocatedHead located) {
                                              records.emplace_back(head, std::move(located));
                                            }));
  if (!scan.sealed || scan.torn != 0)
    return Error{ErrorCode::kInvalid, fmt::format("{}: not whole; it ends before its footer", path)};

  KVASIR_TRY(auto store, DiskStore::open(model.options(folder)));
  std::set<SpanHash> known;
  std::set<std::pair<SpanHash, std::vector<int32_t>>> known_snapshots;
  for (const RecordHead& head : store->take_found()) {
    if (head.kind == RecordKind::kSnapshot)
      known_snapshots.insert({head.snapshot.before, head.snapshot.tail});
    auto hashes = head.kind == RecordKind::kExtent ? hashes_of(head.extent, model.page_tokens)
                                                   : std::vector<SpanHash>();
    for (size_t i = 0; i < hashes.size(); ++i) {
      if ((head.present >> i & 1) != 0) known.insert(hashes[i]);
    }
  }
  ArchiveReport report;
  for (const auto& [head, located] : records) {
    if (head.kind != RecordKind::kExtent && head.kind != RecordKind::kSnapshot) continue;
    KVASIR_TRY(WholeRecord r, read_record(*file, header, head, located, path));
    DiskWorth worth{head.hits, head.weight, head.kept};
    if (head.kind == RecordKind::kSnapshot) {
      if (!known_snapshots.insert({head.snapshot.before, head.snapshot.tail}).second) continue;
      report.bytes += std::ssize(r.bytes);
      auto state = std::make_shared<const std::vector<std::byte>>(std::move(r.bytes));
      if (!store->put_snapshot(head.snapshot, state, worth))
        return Error{ErrorCode::kIo, store->metrics().last_error};
      ++report.snapshots;
    } else {
      auto hashes = hashes_of(head.extent, model.page_tokens);
      size_t rank = 0;
      for (size_t i = 0; i < hashes.size(); ++i) {
        if ((head.present >> i & 1) == 0) continue;
        const auto& page = r.pages[rank++];
        if (!known.insert(hashes[i]).second) continue;
        ExtentHead one = head.extent;
        one.before = i == 0 ? head.extent.before : hashes[i - 1];
        one.first += static_cast<int64_t>(i);
        auto own = std::span(head.extent.tokens).subspan(i * model.page_tokens, model.page_tokens);
        one.tokens.assign(own.begin(), own.end());
        one.checksums.clear();
        if (!store->put_pages(std::move(one), {page.data()}, worth))
          return Error{ErrorCode::kIo, store->metrics().last_error};
        ++report.pages;
        report.bytes += std::ssize(page);
      }
    }
    KVASIR_TRY_STATUS(store->flush());  // the pages are read from `r`
  }
  return report;
}

Status prune_folder(const std::string& folder, const FolderModel& model, const std::optional<SpanHash>& id,
                    int64_t max_bytes) {
  DiskOptions options = model.options(folder);
  if (max_bytes > 0) options.max_bytes = max_bytes;
  KVASIR_TRY(auto store, DiskStore::open(std::move(options)));
  if (id) {
    PagePool pool(model.page_bytes(), 0);
    PrefixCache cache(pool, store.get(),
                      {.page_tokens = model.page_tokens, .section_bytes = model.section_bytes});
    auto tokens = cache.tokens_of(*id);
    if (tokens.empty())
      return Error{ErrorCode::kNotFound, fmt::format("{}: no prefix {}", folder, id->text())};
    uint64_t cache_namespace = 0;
    for (const PrefixInfo& info : cache.list())
      cache_namespace = info.id == *id ? info.cache_namespace : cache_namespace;
    cache.forget({cache_namespace, tokens});
    return cache.flush();
  }
  return store->flush();
}

}  // namespace kvasir
