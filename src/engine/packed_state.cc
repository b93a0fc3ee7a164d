// One walk over the live bytes serves packing, unpacking and counting; see packed_state.h.
#include "engine/packed_state.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

namespace kvasir {
namespace {

struct Header {
  static constexpr uint32_t kMagic = 0x30534e53 + (kPackedVersion << 24);  // "SNS" and a digit
  uint32_t magic = kMagic;
  uint32_t draft = 0;  // the draft block's window is there
  int64_t length = 0;
};

// Calls visit(address, bytes) for every stretch of live bytes of a sequence of `length` tokens, in packed order. Addresses
// are those of `state` and `page`; `page` (the unfinished one) may be null: then its rows are left out.
template <class Visit>
void walk(const KvLayout& layout, int64_t length, bool draft, std::byte* state, std::byte* page, Visit&& visit) {
  int64_t trunk = static_cast<int64_t>(layout.layers.size()) - 1;
  int64_t window_rows = std::min(length, layout.window_capacity - kRollbackSlack - 1);
  int64_t in_page = length % kPageTokens;
  const KvRowFormat &entry = layout.entry_format, &key = layout.key_format;
  for (int64_t l = 0; l < trunk + (draft ? 1 : 0); ++l) {
    const LayerPlace& y = layout.layers[l];
    LayerCache cache = y.cache(state, nullptr);
    for (int64_t p = length - window_rows; p < length; ++p) {
      visit(cache.window.row_data(entry, p % cache.window_capacity), entry.data_bytes);
      if (entry.scale_bytes) visit(cache.window.row_scale(entry, p % cache.window_capacity), entry.scale_bytes);
    }
    if (y.ratio == 0) continue;
    int64_t lanes = y.ratio == 4 ? 2 : 1;
    int64_t first = std::max<int64_t>(0, length / y.ratio * y.ratio - (lanes - 1) * y.ratio);
    int64_t tail_row = 2 * lanes * entry.dim, index_row = 2 * lanes * key.dim;
    for (int64_t p = first; p < length; ++p) {
      visit(reinterpret_cast<std::byte*>(cache.tail + p % y.tail_capacity * tail_row), tail_row * static_cast<int64_t>(sizeof(float)));
      if (cache.index_tail)
        visit(reinterpret_cast<std::byte*>(cache.index_tail + p % y.tail_capacity * index_row), index_row * static_cast<int64_t>(sizeof(float)));
    }
    if (!page || in_page < y.ratio) continue;
    auto rows_in_page = [&](const PageSection& section, const KvRowFormat& format) {
      KvRows rows = section.in_page(page);
      visit(rows.data, in_page / y.ratio * format.data_bytes);
      if (format.scale_bytes) visit(rows.scale, in_page / y.ratio * format.scale_bytes);
    };
    rows_in_page(y.entries, entry);
    if (y.ratio == 4) rows_in_page(y.keys, key);
  }
}

}  // namespace

std::vector<std::byte> pack_state(const KvLayout& layout, const Sequence& sequence, DraftWindow draft) {
  Header header{.draft = draft == DraftWindow::kKeep, .length = sequence.length()};
  HostBytes state(sequence.memory(), sequence.state(), layout.state_bytes, HostBytes::Content::kFetch);
  HostBytes page(sequence.memory(), header.length % kPageTokens ? sequence.page(header.length / kPageTokens) : nullptr, layout.page_bytes,
                 HostBytes::Content::kFetch);
  int64_t bytes = sizeof(header);
  auto each = [&](auto&& visit) { walk(layout, header.length, header.draft, state.data(), page.data(), visit); };
  each([&](std::byte*, int64_t n) { bytes += n; });
  std::vector<std::byte> out(bytes);
  std::memcpy(out.data(), &header, sizeof(header));
  std::byte* to = out.data() + sizeof(header);
  each([&](std::byte* from, int64_t n) {
    std::memcpy(to, from, n);
    to += n;
  });
  return out;
}

int64_t packed_length(std::span<const std::byte> packed) {
  Header header;
  if (packed.size() < sizeof(header)) return 0;
  std::memcpy(&header, packed.data(), sizeof(header));
  return header.magic == Header::kMagic && header.length > 0 ? header.length : 0;
}

Status unpack_state(const KvLayout& layout, std::span<const std::byte> packed, Sequence& sequence) {
  int64_t length = packed_length(packed);
  if (length == 0 || length != sequence.length()) {
    return Error{ErrorCode::kInvalid, fmt::format("a snapshot of {} bytes says {} tokens, {} were expected", packed.size(), length, sequence.length())};
  }
  Header header;
  std::memcpy(&header, packed.data(), sizeof(header));
  // Rows of a page that the sequence has whole are in it already: they are skipped, but they are counted.
  bool own_page = length % kPageTokens != 0 && sequence.stored() < length;
  KVASIR_TRY_STATUS(sequence.reserve(length));
  HostBytes state(sequence.memory(), sequence.state(), layout.state_bytes, HostBytes::Content::kUnset);
  HostBytes unfinished(sequence.memory(), length % kPageTokens ? sequence.page(length / kPageTokens) : nullptr, layout.page_bytes,
                       HostBytes::Content::kUnset);
  std::byte* page = unfinished.data();
  auto each = [&](auto&& visit) { walk(layout, length, header.draft != 0, state.data(), page, visit); };
  auto bytes = static_cast<int64_t>(sizeof(header));
  each([&](std::byte*, int64_t n) { bytes += n; });
  if (bytes != static_cast<int64_t>(packed.size())) {
    return Error{ErrorCode::kInvalid, fmt::format("a snapshot of {} tokens has {} bytes, this model's have {}", length, packed.size(), bytes)};
  }
  const std::byte* from = packed.data() + sizeof(header);
  each([&](std::byte* to, int64_t n) {
    bool in_page = page && to >= page && to < page + layout.page_bytes;
    if (!in_page || own_page) std::memcpy(to, from, n);
    from += n;
  });
  state.write_back();
  if (own_page) unfinished.write_back();
  return {};
}

}  // namespace kvasir
