// Where the keys of a query row lie: window rows in the ring or among this call's, entries in the sequence's
// pages.
//
// Keys are numbered in list order, window oldest first, then entries ascending; see ops/attention.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/attention.h"

namespace kvasir::cuda {

// What all rows of a call share; passed to kernels by value.
struct KeyPlaces {
  const CacheSequence* sequences;
  const int32_t* row_sequence;
  const std::byte* rows_data;  // this call's window rows
  const std::byte* rows_scale;
  int64_t window_data, window_scale;    // offsets in a sequence's state
  int64_t entries_data, entries_scale;  // offsets in a page
  int64_t selected_stride;
  const int32_t* selected;
  int32_t data_bytes, scale_bytes;
  int32_t window, window_capacity, ratio, rows_per_page;
  int32_t topk;  // length of a row of `selected`
  EntryChoice choice;
};

KeyPlaces key_places(const AttendArgs& a);

struct KeyAddress {
  const std::byte* data;
  const std::byte* scale;
};

// The keys of one query row.
struct RowKeys {
  const std::byte* state;
  std::byte* const* pages;
  const int32_t* selected;  // of this row
  int64_t row;              // in the call
  int32_t position;         // of the query token
  int32_t start;            // first position whose window row is among this call's
  int32_t window_count, first_slot;
  int32_t count;  // keys in all; of the selected ones some may be -1, which weigh nothing

  __device__ __forceinline__ RowKeys(const KeyPlaces& p, int64_t query_row) {
    const CacheSequence& s = p.sequences[p.row_sequence[query_row]];
    row = query_row;
    state = s.state;
    pages = s.pages;
    start = static_cast<int32_t>(s.span.start);
    position = start + static_cast<int32_t>(query_row - s.span.first_row);
    window_count = min(p.window, position + 1);
    first_slot = (position + 1 - window_count) % p.window_capacity;
    int32_t visible = p.choice == EntryChoice::kNone ? 0 : (position + 1) / p.ratio;
    if (p.choice == EntryChoice::kSelected) visible = min(visible, p.topk);
    selected = p.choice == EntryChoice::kSelected ? p.selected + query_row * p.selected_stride : nullptr;
    count = window_count + visible;
  }

  __device__ __forceinline__ KeyAddress window_key(const KeyPlaces& p, int32_t j) const {
    int32_t at = position + 1 - window_count + j;
    if (at >= start) {
      int64_t r = row + at - position;
      return {p.rows_data + r * p.data_bytes, p.rows_scale + r * p.scale_bytes};
    }
    int32_t slot = first_slot + j;
    if (slot >= p.window_capacity) slot -= p.window_capacity;
    return {state + p.window_data + static_cast<int64_t>(slot) * p.data_bytes,
            state + p.window_scale + static_cast<int64_t>(slot) * p.scale_bytes};
  }

  __device__ __forceinline__ KeyAddress entry_key(const KeyPlaces& p, int32_t entry) const {
    uint32_t page = static_cast<uint32_t>(entry) / static_cast<uint32_t>(p.rows_per_page);
    int64_t within = entry - static_cast<int32_t>(page) * p.rows_per_page;
    const std::byte* base = pages[page];
    return {base + p.entries_data + within * p.data_bytes, base + p.entries_scale + within * p.scale_bytes};
  }

  // Key j < count. False: a place of the selection that holds no entry.
  __device__ __forceinline__ bool address(const KeyPlaces& p, int32_t j, KeyAddress& out) const {
    if (j < window_count) {
      out = window_key(p, j);
      return true;
    }
    int32_t entry = j - window_count;
    if (p.choice == EntryChoice::kSelected) entry = selected[entry];
    if (entry < 0) return false;
    out = entry_key(p, entry);
    return true;
  }
};

}  // namespace kvasir::cuda
