// The size limit: who goes when the folder is full, and giving the space of dead records back. See
// disk_store_impl.h.
//
// Age and worth decide, as in memory (eviction_order.h), in seconds here: a record twice as worth is as good
// as one used kHalfLife later, but the last used kFreshShare goes after all others. Bytes come back by whole
// segments: what still lives in one is written anew, synced, and only then is the old file removed, so that
// every record is in some file at every moment.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "cache/disk_store_impl.h"

namespace kvasir {
namespace {

constexpr double kHalfLife = 24 * 3600;
constexpr int64_t kForeignIsOld = 7 * 24 * 3600;
constexpr double kMostlyDead = 0.6;
constexpr double kHardlyDead = 0.15;
constexpr int64_t kMarkBytes = 40;
constexpr double kFreshShare = 0.2;
constexpr double kSnapshotShare = 0.5;  // of the folder, when it is full

double priority(const DiskEntry& e) {
  return static_cast<double>(e.last_used) + kHalfLife * std::log2(std::max(e.worth.weight, 1e-3f));
}

iovec part_of(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

}  // namespace

int64_t DiskStore::Impl::total_bytes() const {
  int64_t total = 0;
  for (const auto& [number, segment] : segments) total += segment->bytes;
  for (const auto& f : foreign) total += f.bytes;
  return total;
}

void DiskStore::Impl::keep_limit() {
  // Two segments of slack: the active one grows, and compaction writes before it removes.
  int64_t budget = options.max_bytes - 2 * options.segment_bytes;
  uint64_t before =
      next_segment;  // what is written from here on is not rewritten again in this call, so that it ends
  bool marks_safe = false;
  for (double share = 0.9; share > 0.1;) {
    std::shared_ptr<Segment> victim;
    bool over = false;
    {
      std::unique_lock lock(mutex);
      if (failing()) return;
      over = total_bytes() > budget;
      if (over && remove_foreign()) continue;
      int64_t others = 0;
      for (const auto& f : foreign) others += f.bytes;
      if (over) evict_to(static_cast<int64_t>(static_cast<double>(budget - others) * share));
      victim = most_dead(over ? kHardlyDead : kMostlyDead, before);
    }
    if (victim == nullptr && !over) return;
    if (victim == nullptr && active && active->number < before && active->bytes > kSegmentHeaderBytes) {
      (void)seal();
      continue;
    }
    if (victim == nullptr) {
      share *= 0.8;  // heads and footers take more than their tenth: records are small
      continue;
    }
    Status status = compact(victim, marks_safe);
    if (status) continue;
    abandon(status.error());
    std::unique_lock lock(mutex);
    note_failure(status.error(), lock);
    return;
  }
}

// Other models' segments, oldest first, while they are old or take more than half.
bool DiskStore::Impl::remove_foreign() {
  if (foreign.empty()) return false;
  int64_t bytes = 0;
  for (const auto& f : foreign) bytes += f.bytes;
  auto oldest = std::ranges::min_element(foreign, {}, &DiskFiles::Entry::modified);
  if (bytes <= options.max_bytes / 2 && oldest->modified > now() - kForeignIsOld) return false;
  (void)options.files->remove(options.folder + "/" + oldest->name);
  foreign.erase(oldest);
  return true;
}

// With the lock.
void DiskStore::Impl::evict_to(int64_t live_bytes) {
  struct Candidate {
    RecordId id;
    DiskEntry* entry;
    bool fresh = false;
  };
  std::vector<Candidate> candidates;
  int64_t live = 0, snapshots = 0;
  for (auto& [id, e] : entries) {
    if (e.live() == 0) continue;
    live += e.live_bytes();
    snapshots += e.kind == RecordKind::kSnapshot ? e.live_bytes() : 0;
    candidates.push_back({id, &e});
  }
  if (live <= live_bytes) return;
  // What was used last has its chance, however popular the rest is.
  std::ranges::sort(candidates, [](const Candidate& a, const Candidate& b) {
    return std::pair(a.entry->last_used, a.id) > std::pair(b.entry->last_used, b.id);
  });
  double fresh = kFreshShare * static_cast<double>(live_bytes);
  for (Candidate& c : candidates) {
    c.fresh = fresh > 0;
    fresh -= static_cast<double>(c.entry->live_bytes());
  }
  std::ranges::sort(candidates, [](const Candidate& a, const Candidate& b) {
    if (a.entry->worth.kept != b.entry->worth.kept) return b.entry->worth.kept;
    if (a.fresh != b.fresh) return b.fresh;
    double pa = priority(*a.entry), pb = priority(*b.entry);
    if (pa != pb) return pa < pb;
    return a.entry->depth != b.entry->depth ? a.entry->depth > b.entry->depth : a.id < b.id;
  });
  // Neither kind pushes the other below its share. Notes are small and go with the oldest.
  bool snapshots_first = static_cast<double>(snapshots) > kSnapshotShare * static_cast<double>(live_bytes);
  for (int pass = 0; pass < 2; ++pass) {
    for (const Candidate& c : candidates) {
      DiskEntry& e = *c.entry;
      bool its_turn = pass == 1 || (e.kind == RecordKind::kSnapshot) == snapshots_first;
      if (live <= live_bytes) return;
      if (e.live() == 0 || !its_turn) continue;
      if (pass == 0 && snapshots_first &&
          static_cast<double>(snapshots) <= kSnapshotShare * static_cast<double>(live_bytes))
        break;
      live -= e.live_bytes();
      snapshots -= e.kind == RecordKind::kSnapshot ? e.live_bytes() : 0;
      counters.evicted_pages += e.kind == RecordKind::kExtent ? __builtin_popcountll(e.live()) : 0;
      counters.evicted_snapshots += e.kind == RecordKind::kSnapshot ? 1 : 0;
      if (e.kind == RecordKind::kNote) {
        notes.erase(e.note_key);
      } else {
        events.push_back({DiskEvent::Kind::kLost, c.id, e.live()});
      }
      e.dead = e.present;
      dirty.insert(c.id);
    }
  }
  changed.notify_all();
}

// The finished segment below number `before` whose records are dead to the largest share, above `least`. With
// the lock.
std::shared_ptr<Segment> DiskStore::Impl::most_dead(double least, uint64_t before) const {
  std::unordered_map<const Segment*, int64_t> live;
  int64_t marks = 0, marks_needed = 0;
  for (const auto& [id, e] : entries) {
    live[e.segment.get()] += e.live_bytes();
    marks_needed += e.marked ? kMarkBytes : 0;
  }
  for (const auto& [number, segment] : segments) marks += segment->marks_bytes;
  // Rewriting marks is worth it once most of them are outdated; before, it would go round in circles.
  bool marks_live = marks <= 8 * marks_needed + options.segment_bytes;
  std::shared_ptr<Segment> best;
  for (const auto& [number, segment] : segments) {
    if (!segment->sealed || number >= before) continue;
    int64_t records = std::max<int64_t>(segment->data_end - kSegmentHeaderBytes, 1);
    int64_t used = live[segment.get()] + (marks_live ? segment->marks_bytes : 0);
    double dead = 1 - static_cast<double>(used) / static_cast<double>(records);
    if (dead <= least) continue;
    best = segment;
    least = dead;
  }
  return best;
}

Status DiskStore::Impl::compact(const std::shared_ptr<Segment>& victim, bool& marks_safe) {
  std::vector<std::pair<RecordId, DiskEntry>> live;
  std::vector<RecordId> marked;
  {
    std::lock_guard lock(mutex);
    for (const auto& [id, e] : entries) {
      if (e.segment == victim && e.live() != 0) live.emplace_back(id, e);
      if (e.marked) marked.push_back(id);
    }
  }
  std::ranges::sort(live, {}, [](const auto& item) { return item.second.offset; });
  for (const auto& [id, entry] : live) KVASIR_TRY_STATUS(rewrite(id, entry));
  KVASIR_TRY_STATUS(sync_segment());
  if (victim->marks_bytes > 0 && !marks_safe) {
    KVASIR_TRY_STATUS(write_marks(marked));
    marks_safe = true;
  }

  std::lock_guard lock(mutex);
  if (Status removed = options.files->remove(victim->path);
      !removed && removed.error().code != ErrorCode::kNotFound)
    return removed;
  (void)options.files->sync_folder(options.folder);  // if it returns, it returns with the same records
  std::erase_if(entries, [&](const auto& item) { return item.second.segment == victim; });
  segments.erase(victim->number);
  return {};
}

// Appends what lives of a record, with the worth that it has now. Bytes that are not what they were are lost
// here.
Status DiskStore::Impl::rewrite(RecordId id, const DiskEntry& entry) {
  std::vector<std::byte> bytes(entry.head_bytes + entry.payload_bytes);
  iovec part{bytes.data(), bytes.size()};
  auto lost = [&](uint64_t slots) {
    std::unique_lock lock(mutex);
    lose(id, slots, lock);
    return Status();
  };
  if (!entry.segment->file->read(entry.offset, {&part, 1})) return lost(entry.live());
  auto head = decode_head(std::span(bytes).first(entry.head_bytes), options.page_tokens,
                          options.section_bytes.size());
  if (!head || head->id != id) return lost(entry.live());
  auto payload = std::span<const std::byte>(bytes).subspan(entry.head_bytes);
  head->last_used = entry.last_used;
  head->hits = entry.worth.hits;
  head->weight = entry.worth.weight;
  head->kept = entry.worth.kept;
  if (head->kind != RecordKind::kExtent) {
    uint64_t expected = head->kind == RecordKind::kNote ? head->note.checksum : head->snapshot.checksum;
    if (checksum_of(payload) != expected) return lost(1);
    iovec whole = part_of(payload);
    return write_record(*head, {&whole, 1});
  }

  int pages = head->present_pages();
  std::vector<int> slots;
  for (int slot = 0; slot < kMaxExtentPages; ++slot) {
    if ((head->present >> slot & 1) != 0) slots.push_back(slot);
  }
  std::vector<std::span<const std::byte>> parts;  // [section][page]
  uint64_t bad = 0;
  int64_t at = 0;
  for (int64_t section : options.section_bytes) {
    for (int page = 0; page < pages; ++page, at += section) {
      parts.push_back(payload.subspan(at, section));
      if (checksum_of(parts.back()) != head->extent.checksums[parts.size() - 1])
        bad |= uint64_t{1} << slots[page];
    }
  }
  if ((bad & entry.live()) != 0) (void)lost(bad);
  head->present = entry.live() & ~bad;
  if (head->present == 0) return {};
  std::vector<iovec> kept;
  std::vector<uint64_t> checksums;
  for (size_t i = 0; i < parts.size(); ++i) {
    if ((head->present >> slots[i % pages] & 1) == 0) continue;
    kept.push_back(part_of(parts[i]));
    checksums.push_back(head->extent.checksums[i]);
  }
  head->extent.checksums = std::move(checksums);
  return write_record(*head, kept);
}

}  // namespace kvasir
