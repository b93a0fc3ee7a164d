// Encoding, decoding and scanning; see disk_format.h. Decoding trusts no length before the bytes are there.
#include "cache/disk_format.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <type_traits>

#include "base/check.h"

namespace kvasir {
namespace {

static_assert(std::endian::native == std::endian::little, "the files are little-endian");

constexpr char kSegmentMagic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'S', '\n'};
constexpr char kTrailerMagic[8] = {'K', 'V', 'A', 'S', 'I', 'R', 'F', '\n'};
constexpr uint32_t kRecordMagic = 0x4352564b;  // "KVRC"
constexpr size_t kNameBytes = 40;

struct SegmentHeaderBytes {
  char magic[8];
  uint32_t version, bytes;
  uint64_t number, created;
  uint64_t weights_high, weights_low, numerics, layout;
  char name[kNameBytes];
  uint32_t page_tokens, sections;
  uint32_t section_bytes[kMaxSections];
  uint8_t reserved[136];
  uint64_t checksum;
};
static_assert(sizeof(SegmentHeaderBytes) == kSegmentHeaderBytes);

struct RecordHeaderBytes {
  uint32_t magic;
  uint8_t kind, kept;
  uint16_t reserved;
  uint64_t head_bytes, payload_bytes, id, present, last_used;
  uint32_t hits;
  float weight;
  uint64_t checksum;  // of the head with this field 0
};
static_assert(sizeof(RecordHeaderBytes) == kRecordHeaderBytes && offsetof(RecordHeaderBytes, checksum) == 56);

struct TrailerBytes {
  char magic[8];
  uint64_t footer_offset, checksum;
};
static_assert(sizeof(TrailerBytes) == kTrailerBytes);

struct MarkBytes {
  uint64_t id, dead, last_used;
  uint32_t hits;
  float weight;
  uint64_t kept;
};
static_assert(sizeof(MarkBytes) == 40);

class Writer {
 public:
  template <class T>
  void put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    put_bytes(std::as_bytes(std::span(&value, 1)));
  }
  void put_bytes(std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); }
  void pad() { out.resize(padded(static_cast<int64_t>(out.size()))); }
  // Each in as many bits as the largest needs.
  void put_tokens(std::span<const int32_t> tokens) {
    uint32_t all = 0;
    for (int32_t t : tokens) all |= static_cast<uint32_t>(t);
    uint32_t bits = static_cast<uint32_t>(std::bit_width(all));
    put(static_cast<uint32_t>(tokens.size()));
    put(bits);
    size_t begin = out.size();
    out.resize(begin + static_cast<size_t>(padded(static_cast<int64_t>((tokens.size() * bits + 7) / 8))));
    size_t at = 0;
    for (int32_t t : tokens) {
      for (uint32_t b = 0; b < bits; ++b, ++at) {
        if ((static_cast<uint32_t>(t) >> b & 1) != 0) out[begin + at / 8] |= std::byte{1} << (at % 8);
      }
    }
  }
  std::vector<std::byte> out;
};

// Every get fails from the first one on that goes past the end.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : rest_(bytes) {}
  template <class T>
  T get() {
    T value{};
    auto bytes = get_bytes(sizeof(T));
    if (bytes.size() == sizeof(T)) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::span<const std::byte> get_bytes(uint64_t count) {
    if (count > rest_.size()) ok_ = false;
    if (!ok_) return {};
    auto bytes = rest_.first(count);
    rest_ = rest_.subspan(count);
    return bytes;
  }
  std::vector<int32_t> get_tokens() {
    auto count = get<uint32_t>();
    auto bits = get<uint32_t>();
    if (bits > 32 || (bits == 0 && count > (1u << 20))) ok_ = false;
    auto bytes = get_bytes(
        ok_ ? static_cast<uint64_t>(padded(static_cast<int64_t>((uint64_t{count} * bits + 7) / 8))) : 0);
    std::vector<int32_t> tokens;
    if (!ok_) return tokens;
    tokens.resize(count);
    size_t at = 0;
    for (int32_t& token : tokens) {
      uint32_t value = 0;
      for (uint32_t b = 0; b < bits; ++b, ++at)
        value |= (static_cast<uint32_t>(bytes[at / 8]) >> (at % 8) & 1) << b;
      token = static_cast<int32_t>(value);
    }
    return tokens;
  }
  bool ended_well() const { return ok_ && rest_.empty(); }
  size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

Error not_a_record(const char* what) { return {ErrorCode::kInvalid, fmt::format("not a record: {}", what)}; }

Status read_exactly(DiskFile& file, int64_t offset, std::span<std::byte> into) {
  iovec part{into.data(), into.size()};
  return file.read(offset, {&part, 1});
}

}  // namespace

uint64_t checksum_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::string segment_name(uint64_t number) { return fmt::format("seg-{:016x}.kv", number); }

std::optional<uint64_t> segment_number(std::string_view name) {
  if (name.size() != 23 || !name.starts_with("seg-") || !name.ends_with(".kv")) return {};
  uint64_t number = 0;
  auto [end, error] = std::from_chars(name.data() + 4, name.data() + 20, number, 16);
  if (error != std::errc() || end != name.data() + 20 || segment_name(number) != name) return {};
  return number;
}

std::vector<std::byte> encode_segment_header(const SegmentHeader& header) {
  SegmentHeaderBytes b{};
  std::memcpy(b.magic, kSegmentMagic, sizeof b.magic);
  b.version = kDiskFormatVersion;
  b.bytes = kSegmentHeaderBytes;
  b.number = header.number;
  b.created = static_cast<uint64_t>(header.created);
  b.weights_high = header.model.weights.high;
  b.weights_low = header.model.weights.low;
  b.numerics = header.model.numerics;
  b.layout = header.model.layout;
  std::memcpy(b.name, header.model.name.data(), std::min(header.model.name.size(), kNameBytes));
  KVASIR_CHECK(header.section_bytes.size() <= kMaxSections, "{} sections", header.section_bytes.size());
  b.page_tokens = static_cast<uint32_t>(header.page_tokens);
  b.sections = static_cast<uint32_t>(header.section_bytes.size());
  for (size_t i = 0; i < header.section_bytes.size(); ++i)
    b.section_bytes[i] = static_cast<uint32_t>(header.section_bytes[i]);
  auto bytes = std::as_bytes(std::span(&b, 1));
  b.checksum = checksum_of(bytes.first(kSegmentHeaderBytes - 8));
  return {bytes.begin(), bytes.end()};
}

Result<SegmentHeader> decode_segment_header(std::span<const std::byte> bytes) {
  SegmentHeaderBytes b{};
  if (bytes.size() < sizeof b)
    return Error{ErrorCode::kInvalid,
                 fmt::format("a segment of {} bytes, its header has {}", bytes.size(), sizeof b)};
  std::memcpy(&b, bytes.data(), sizeof b);
  if (std::memcmp(b.magic, kSegmentMagic, sizeof b.magic) != 0)
    return Error{ErrorCode::kInvalid, "no kvasir cache segment"};
  // Before the version: every format has its header's checksum here, so that another format is told from a
  // wrong byte.
  if (b.checksum != checksum_of(bytes.first(kSegmentHeaderBytes - 8)))
    return Error{ErrorCode::kInvalid, "a segment header with a wrong checksum"};
  if (b.version != kDiskFormatVersion) {
    return Error{ErrorCode::kUnsupported,
                 fmt::format("cache format {}, this kvasir reads {}", b.version, kDiskFormatVersion)};
  }
  if (b.page_tokens == 0 || b.sections == 0 || b.sections > kMaxSections)
    return Error{ErrorCode::kInvalid, "a segment of pages without a shape"};
  SegmentHeader header;
  header.page_tokens = b.page_tokens;
  header.section_bytes.assign(b.section_bytes, b.section_bytes + b.sections);
  header.number = b.number;
  header.created = static_cast<int64_t>(b.created);
  header.model.weights = {b.weights_high, b.weights_low};
  header.model.numerics = b.numerics;
  header.model.layout = b.layout;
  header.model.name.assign(b.name, strnlen(b.name, kNameBytes));
  return header;
}

std::vector<std::byte> encode_head(const RecordHead& head) {
  Writer w;
  w.put(RecordHeaderBytes{});
  switch (head.kind) {
    case RecordKind::kExtent:
      w.put(head.extent.cache_namespace);
      w.put(head.extent.before.high);
      w.put(head.extent.before.low);
      w.put(head.extent.first);
      w.put_tokens(head.extent.tokens);
      w.put_bytes(std::as_bytes(std::span(head.extent.checksums)));
      break;
    case RecordKind::kSnapshot:
      w.put(head.snapshot.cache_namespace);
      w.put(head.snapshot.before.high);
      w.put(head.snapshot.before.low);
      w.put(head.snapshot.length);
      w.put(uint64_t{head.snapshot.use});
      w.put_tokens(head.snapshot.tail);
      w.put(head.snapshot.checksum);
      break;
    case RecordKind::kNote:
      w.put(head.note.checksum);
      w.put(static_cast<uint64_t>(head.note.key.size()));
      w.put_bytes(std::as_bytes(std::span(head.note.key)));
      w.pad();
      break;
    case RecordKind::kMarks:
      for (const Mark& m : head.marks) {
        w.put(MarkBytes{static_cast<uint64_t>(m.id), m.dead, static_cast<uint64_t>(m.last_used), m.hits,
                        m.weight, m.kept ? 1u : 0u});
      }
      break;
    case RecordKind::kFooter:
      w.put(head.footer_checksum);
      break;
  }
  RecordHeaderBytes b{};
  b.magic = kRecordMagic;
  b.kind = static_cast<uint8_t>(head.kind);
  b.kept = head.kept ? 1 : 0;
  b.head_bytes = w.out.size();
  b.payload_bytes = static_cast<uint64_t>(head.payload_bytes);
  b.id = static_cast<uint64_t>(head.id);
  b.present = head.present;
  b.last_used = static_cast<uint64_t>(head.last_used);
  b.hits = head.hits;
  b.weight = head.weight;
  std::memcpy(w.out.data(), &b, sizeof b);
  b.checksum = checksum_of(w.out);
  std::memcpy(w.out.data() + offsetof(RecordHeaderBytes, checksum), &b.checksum, sizeof b.checksum);
  return std::move(w.out);
}

Result<int64_t> head_bytes(std::span<const std::byte> header) {
  RecordHeaderBytes b{};
  if (header.size() < sizeof b) return not_a_record("too short");
  std::memcpy(&b, header.data(), sizeof b);
  if (b.magic != kRecordMagic) return not_a_record("no magic");
  if (b.head_bytes < sizeof b || b.head_bytes > static_cast<uint64_t>(kMaxHeadBytes) || b.head_bytes % 8 != 0)
    return not_a_record("head of an impossible size");
  if (b.payload_bytes > uint64_t{1} << 48) return not_a_record("payload of an impossible size");
  return static_cast<int64_t>(b.head_bytes);
}

Result<RecordHead> decode_head(std::span<const std::byte> bytes, int64_t page_tokens, size_t sections) {
  KVASIR_TRY(int64_t size, head_bytes(bytes));
  if (size != std::ssize(bytes)) return not_a_record("head of another size");
  RecordHeaderBytes b{};
  std::memcpy(&b, bytes.data(), sizeof b);
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  std::memset(copy.data() + offsetof(RecordHeaderBytes, checksum), 0, 8);
  if (b.checksum != checksum_of(copy)) return not_a_record("wrong checksum");

  RecordHead head;
  head.kind = static_cast<RecordKind>(b.kind);
  head.id = RecordId(b.id);
  head.present = b.present;
  head.last_used = static_cast<int64_t>(b.last_used);
  head.hits = b.hits;
  head.weight = b.weight;
  head.kept = b.kept != 0;
  head.payload_bytes = static_cast<int64_t>(b.payload_bytes);
  Reader r(bytes.subspan(sizeof b));
  bool fits = true;
  switch (head.kind) {
    case RecordKind::kExtent: {
      ExtentHead& e = head.extent;
      e.cache_namespace = r.get<uint64_t>();
      e.before.high = r.get<uint64_t>();
      e.before.low = r.get<uint64_t>();
      e.first = r.get<int64_t>();
      e.tokens = r.get_tokens();
      int64_t spans = std::ssize(e.tokens) / page_tokens;
      fits = e.first >= 0 && e.first < int64_t{1} << 40 && std::ssize(e.tokens) == spans * page_tokens &&
             spans >= 1 && spans <= kMaxExtentPages && b.present != 0 &&
             (spans == 64 || b.present >> spans == 0) &&
             r.left() == sections * head.present_pages() * sizeof(uint64_t);
      if (!fits) break;
      e.checksums.resize(sections * head.present_pages());
      auto sums = r.get_bytes(e.checksums.size() * sizeof(uint64_t));
      std::memcpy(e.checksums.data(), sums.data(), sums.size());
      break;
    }
    case RecordKind::kSnapshot: {
      SnapshotHead& s = head.snapshot;
      s.cache_namespace = r.get<uint64_t>();
      s.before.high = r.get<uint64_t>();
      s.before.low = r.get<uint64_t>();
      s.length = r.get<int64_t>();
      s.use = static_cast<uint32_t>(r.get<uint64_t>());
      s.tail = r.get_tokens();
      s.checksum = r.get<uint64_t>();
      fits = s.length >= 0 && std::ssize(s.tail) == s.length % page_tokens && b.present == 1;
      break;
    }
    case RecordKind::kNote: {
      head.note.checksum = r.get<uint64_t>();
      auto key_bytes = r.get<uint64_t>();
      auto key = r.get_bytes(key_bytes);
      head.note.key.assign(reinterpret_cast<const char*>(key.data()), key.size());
      r.get_bytes((8 - key_bytes % 8) % 8);
      break;
    }
    case RecordKind::kMarks:
      while (r.left() >= sizeof(MarkBytes)) {
        auto m = r.get<MarkBytes>();
        head.marks.push_back(
            {RecordId(m.id), m.dead, static_cast<int64_t>(m.last_used), m.hits, m.weight, m.kept != 0});
      }
      break;
    case RecordKind::kFooter:
      head.footer_checksum = r.get<uint64_t>();
      break;
    default:
      fits = false;
  }
  if (!fits || !r.ended_well()) return not_a_record("its parts do not fit");
  return head;
}

std::vector<std::byte> encode_footer(const std::vector<LocatedHead>& heads, int64_t offset) {
  Writer payload;
  for (const LocatedHead& h : heads) {
    payload.put(h.offset);
    payload.put_bytes(h.bytes);
  }
  RecordHead head;
  head.kind = RecordKind::kFooter;
  head.present = 1;
  head.payload_bytes = std::ssize(payload.out);
  head.footer_checksum = checksum_of(payload.out);
  Writer all;
  all.put_bytes(encode_head(head));
  all.put_bytes(payload.out);
  TrailerBytes t{};
  std::memcpy(t.magic, kTrailerMagic, sizeof t.magic);
  t.footer_offset = static_cast<uint64_t>(offset);
  t.checksum = checksum_of(std::as_bytes(std::span(&t, 1)).first(16));
  all.put(t);
  return std::move(all.out);
}

namespace {

// The heads of a finished segment, from its footer; empty if there is none that is whole.
Result<std::optional<std::vector<LocatedHead>>> read_footer(DiskFile& file, int64_t size,
                                                            int64_t& footer_offset) {
  std::optional<std::vector<LocatedHead>> none;
  TrailerBytes t{};
  if (size < kSegmentHeaderBytes + kRecordHeaderBytes + 8 + kTrailerBytes) return none;
  KVASIR_TRY_STATUS(read_exactly(file, size - kTrailerBytes, std::as_writable_bytes(std::span(&t, 1))));
  if (std::memcmp(t.magic, kTrailerMagic, sizeof t.magic) != 0 ||
      t.checksum != checksum_of(std::as_bytes(std::span(&t, 1)).first(16)))
    return none;
  auto offset = static_cast<int64_t>(t.footer_offset);
  if (offset < kSegmentHeaderBytes || offset > size - kTrailerBytes - kRecordHeaderBytes - 8) return none;
  std::vector<std::byte> bytes(size - kTrailerBytes - offset);
  KVASIR_TRY_STATUS(read_exactly(file, offset, bytes));
  auto head = decode_head(std::span(bytes).first(kRecordHeaderBytes + 8), 1, 1);
  if (!head || head->kind != RecordKind::kFooter ||
      head->payload_bytes != std::ssize(bytes) - kRecordHeaderBytes - 8)
    return none;
  auto payload = std::span(bytes).subspan(kRecordHeaderBytes + 8);
  if (head->footer_checksum != checksum_of(payload)) return none;
  std::vector<LocatedHead> heads;
  for (Reader r(payload); r.left() > 0;) {
    auto at = r.get<int64_t>();
    auto rest = payload.subspan(payload.size() - r.left());
    auto own = head_bytes(rest);
    if (!own || *own > std::ssize(rest)) return none;
    auto copy = r.get_bytes(static_cast<uint64_t>(*own));
    heads.push_back({at, {copy.begin(), copy.end()}});
  }
  footer_offset = offset;
  return std::optional(std::move(heads));
}

}  // namespace

Result<SegmentScan> scan_segment(DiskFile& file, int64_t page_tokens, size_t sections,
                                 const HeadVisitor& visit) {
  KVASIR_TRY(int64_t size, file.size());
  SegmentScan scan;
  scan.end = kSegmentHeaderBytes;
  int64_t footer_offset = 0;
  KVASIR_TRY(auto footer, read_footer(file, size, footer_offset));
  if (footer) {
    scan.sealed = true;
    scan.end = footer_offset;
    for (LocatedHead& located : *footer) {
      auto head = decode_head(located.bytes, page_tokens, sections);
      bool inside = head && located.offset >= kSegmentHeaderBytes && located.offset < footer_offset &&
                    head->payload_bytes <= footer_offset - located.offset - std::ssize(located.bytes);
      if (!inside) {
        ++scan.torn;
        continue;
      }
      visit(*head, std::move(located));
    }
    return scan;
  }
  std::vector<std::byte> bytes(kRecordHeaderBytes);
  while (scan.end + kRecordHeaderBytes <= size) {
    bytes.resize(kRecordHeaderBytes);
    KVASIR_TRY_STATUS(read_exactly(file, scan.end, bytes));
    auto own = head_bytes(bytes);
    if (!own || *own > size - scan.end) break;
    bytes.resize(*own);
    KVASIR_TRY_STATUS(read_exactly(file, scan.end, bytes));
    auto head = decode_head(bytes, page_tokens, sections);
    if (!head || head->kind == RecordKind::kFooter || head->payload_bytes > size - scan.end - *own) break;
    int64_t offset = scan.end;
    scan.end += *own + padded(head->payload_bytes);
    visit(*head, {offset, bytes});
    if (scan.end > size) scan.end = size;  // a last record without its padding
  }
  scan.torn = scan.end < size ? 1 : 0;
  return scan;
}

}  // namespace kvasir
