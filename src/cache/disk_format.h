// The bytes of the disk tier: segment files and the records in them. Little-endian, everything 8-byte
// aligned.
//
//   segment   seg-<number, 16 hex digits>.kv:  [segment header, 1024 B][record]...[footer record][trailer, 24
//   B] record    [record header, 64 B][the rest of the head][payload, padded to 8 B] extent    head:
//   namespace, hash before, number of the first span, tokens (bit-packed), one xxh3-64 per (section, page)
//             payload: section 0 of each page present, section 1 of each page present, ...
//   snapshot  head: namespace, hash before, length, use, tokens after the last full span, one xxh3-64;
//   payload: the state note      head: key, one xxh3-64; payload: the value marks     head: what changed of
//   earlier records: pages dropped, hits, last use, worth footer    of a finished segment: a copy of every
//   head with its offset, so that opening reads it and nothing else
// A head carries its own xxh3-64. A segment without a valid trailer (its writer was killed) is read head by
// head up to the first one that is not whole; the rest was never acknowledged. Changing any of this changes
// kDiskFormatVersion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cache/disk_files.h"
#include "cache/span_hash.h"

namespace kvasir {

inline constexpr uint32_t kDiskFormatVersion = 1;
inline constexpr int kMaxExtentPages = 64;
inline constexpr int64_t kSegmentHeaderBytes = 1024;
inline constexpr size_t kMaxSections = 192;
inline constexpr int64_t kRecordHeaderBytes = 64;
inline constexpr int64_t kTrailerBytes = 24;
inline constexpr int64_t kMaxHeadBytes = int64_t{16} << 20;

enum class RecordId : uint64_t {};

// Whose numbers these are. Two models whose hashes differ never read each other's.
struct DiskModel {
  SpanHash weights;       // of the checkpoint
  uint64_t numerics = 0;  // kernels and formats that change bits
  uint64_t layout = 0;    // where what lies in a page and a snapshot
  std::string name;       // for people, at most 40 bytes
  bool same_numbers(const DiskModel& o) const {
    return weights == o.weights && numerics == o.numerics && layout == o.layout;
  }
};

struct SegmentHeader {
  uint64_t number = 0;
  int64_t created = 0;  // unix seconds
  DiskModel model;
  int64_t page_tokens = 0;
  std::vector<int64_t> section_bytes;  // of a page; at most kMaxSections
};

enum class RecordKind : uint8_t { kExtent = 1, kSnapshot = 2, kNote = 3, kMarks = 4, kFooter = 5 };

struct ExtentHead {
  uint64_t cache_namespace = 0;
  SpanHash before;                  // of the span before the first
  int64_t first = 0;                // number of the first span
  std::vector<int32_t> tokens;      // of all its spans
  std::vector<uint64_t> checksums;  // [section][page present]
};

struct SnapshotHead {
  uint64_t cache_namespace = 0;
  SpanHash before;  // of the last full span
  int64_t length = 0;
  uint32_t use = 0;
  std::vector<int32_t> tail;  // tokens after the last full span
  uint64_t checksum = 0;
};

struct NoteHead {
  std::string key;
  uint64_t checksum = 0;
};

struct Mark {
  RecordId id{};
  uint64_t dead = 0;  // slots dropped
  int64_t last_used = 0;
  uint32_t hits = 0;
  float weight = 1;
  bool kept = false;
};

// A record without its payload.
struct RecordHead {
  RecordKind kind = RecordKind::kExtent;
  RecordId id{};
  uint64_t present = 0;  // extent: which of its spans have a page in the payload; else 1
  int64_t last_used = 0;
  uint32_t hits = 0;
  float weight = 1;
  bool kept = false;
  int64_t payload_bytes = 0;

  ExtentHead extent;
  SnapshotHead snapshot;
  NoteHead note;
  std::vector<Mark> marks;
  uint64_t footer_checksum = 0;

  int present_pages() const { return __builtin_popcountll(present); }
};

std::string segment_name(uint64_t number);
std::optional<uint64_t> segment_number(std::string_view name);

std::vector<std::byte> encode_segment_header(const SegmentHeader& header);
Result<SegmentHeader> decode_segment_header(std::span<const std::byte> bytes);

std::vector<std::byte> encode_head(const RecordHead& head);
// How long the head is that begins with these kRecordHeaderBytes. Only what can be told without the rest is
// checked.
Result<int64_t> head_bytes(std::span<const std::byte> header);
// `page_tokens` and `sections`: of the store that reads. kInvalid: anything that is not exactly such a head.
Result<RecordHead> decode_head(std::span<const std::byte> bytes, int64_t page_tokens, size_t sections);

uint64_t checksum_of(std::span<const std::byte> bytes);
inline int64_t padded(int64_t bytes) { return (bytes + 7) & ~int64_t{7}; }

// Footer and trailer of a segment whose heads are `heads` (offset and bytes), to be written at `offset`.
struct LocatedHead {
  int64_t offset = 0;  // of the record in its segment
  std::vector<std::byte> bytes;
};
std::vector<std::byte> encode_footer(const std::vector<LocatedHead>& heads, int64_t offset);

// What is in a segment. `visit` gets every record whose head is whole and whose payload lies inside the file,
// in order.
struct SegmentScan {
  int64_t end = 0;      // behind the last whole record; what follows is torn or a footer
  bool sealed = false;  // it has a footer
  int64_t torn = 0;     // 1: bytes after `end` that are no record
};
using HeadVisitor = std::function<void(const RecordHead& head, LocatedHead located)>;
Result<SegmentScan> scan_segment(DiskFile& file, int64_t page_tokens, size_t sections,
                                 const HeadVisitor& visit);

}  // namespace kvasir
