// The bytes of cached keys: one row per window token or compressed entry, one per index key.
//
// V4 has one shared head whose row is both K and V (spec 2.3 step 6). A stored row is split into a
// data part and a scale part so that data rows stay aligned; a block of n rows is n data parts
// followed, somewhere, by n scale parts.
//
//   entry, kNative/kFast:  data  [D-R] e4m3 | R bf16 (rotated dims)      448 + 128 = 576 B at D=512
//                          scale [(D-R)/64] e8m0, zero-padded to 8 B       8 B            584 B in all
//   key,   kNative/kFast:  data  [Di/2] packed e2m1, low nibble first     64 B at Di=128
//                          scale [Di/32] e8m0                              4 B             68 B in all
//   entry and key, kExact: data  f32 values, no scale part
//
// Source: spec 10.1 (the official mixed layout), A.3 (block 64, amax floor), 2.4.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ops/numerics.h"
#include "tensor/view.h"

namespace kvasir {

// How one kind of row is stored. Plain numbers, so that the cache and a device need not know why.
struct KvRowFormat {
  bool quantised = false;   // false: f32 data, no scale
  int32_t dim = 0;          // D (entry) or Di (index key)
  int32_t rope_dim = 0;     // R; trailing bf16 dims of an entry. 0 for an index key
  int32_t data_bytes = 0;   // per row
  int32_t scale_bytes = 0;  // per row

  int64_t row_bytes() const { return int64_t{data_bytes} + scale_bytes; }
  static KvRowFormat entry(Numerics numerics, int head_dim, int rope_dim);
  static KvRowFormat index_key(Numerics numerics, int index_dim);
};

// A run of rows in memory: row r has its data at data + r * data_bytes, its scale at scale + r * scale_bytes.
struct KvRows {
  std::byte* data = nullptr;
  std::byte* scale = nullptr;

  std::byte* row_data(const KvRowFormat& f, int64_t r) const { return data + r * f.data_bytes; }
  std::byte* row_scale(const KvRowFormat& f, int64_t r) const { return scale + r * f.scale_bytes; }
};

// Where one layer's rows of one kind lie inside every page: page p holds rows
// [p * rows_per_page, (p+1) * rows_per_page) of the sequence.
struct PageSection {
  int64_t data_offset = 0;
  int64_t scale_offset = 0;
  int32_t rows_per_page = 0;  // 32 (CSA) or 1 (HCA) with 128-token pages

  KvRows in_page(std::byte* page) const { return {page + data_offset, page + scale_offset}; }
};

// What one sequence's cache is in one layer. Borrowed from the engine for one step.
struct LayerCache {
  KvRows window;                // ring: token p is row p % window_capacity
  int64_t window_capacity = 0;  // sliding_window + slack (rollback, see cache/README in docs/cache.md)
  float* tail = nullptr;        // compressor ring: see CompressArgs; null when the layer has none
  float* index_tail = nullptr;  // the indexer's own compressor ring (ratio 4), else null
  int64_t tail_capacity = 0;    // rows of both rings
  std::byte* const* pages = nullptr;  // the sequence's pages, oldest first
  PageSection entries;          // compressed entries (ratio > 0)
  PageSection keys;             // index keys (ratio 4)
};

// Where one layer's cache lies: offsets in a sequence's state and in every page.
struct LayerPlace {
  int ratio = 0;                // compress_ratio: 0, 4 or 128
  int64_t window_capacity = 0;
  int64_t window_data = 0;      // offsets in the state
  int64_t window_scale = 0;
  int64_t tail = 0;
  int64_t index_tail = 0;
  int64_t tail_capacity = 0;
  PageSection entries;          // offsets in a page
  PageSection keys;

  LayerCache cache(std::byte* state, std::byte* const* pages) const;
};

// The tokens of one sequence in a call: rows [first_row, first_row + tokens) of every [T, ...]
// activation of the call, at positions start, start + 1, ...
struct SequenceSpan {
  int64_t first_row = 0;
  int64_t tokens = 0;
  int64_t start = 0;  // tokens of the sequence already in the cache
};

// One sequence of a call and the memory of its cache. Pages cover every position up to start + tokens - 1.
struct CacheSequence {
  SequenceSpan span;
  std::byte* state = nullptr;         // KvLayout::state_bytes
  std::byte* const* pages = nullptr;  // oldest first, KvLayout::page_bytes each
  // Where rows of closed groups go. Other than `pages` only when those hold all rows of these tokens already and the
  // step is for the windows and tails alone (docs/engine.md, replay): then attention reads the stored rows.
  std::byte* const* written_pages = nullptr;
};

// The sequences of a call, in order of their rows. Both views lie where the backend computes, and what they hold may
// change between replays of a recorded step (Ops::run_step); the two numbers are bounds that do not.
struct CacheBatch {
  View<const CacheSequence, 1> sequences;
  View<const int32_t, 1> row_sequence;  // [T] the sequence of each row
  int64_t max_tokens = 0;               // no sequence has more rows
  int64_t max_length = 0;               // start + tokens is never more
};

// Scalar encoders and decoders of single rows: the definition every backend's fast path must match.
// `values` has f.dim elements, any f32. The format is the same in kNative and kFast, the values are not: kNative
// has rounded them to bf16 before, as the official code does (spec 2.3 steps 5 to 8); kFast stores what it has,
// one rounding instead of two, which lies nearer to kExact.
void encode_row(const KvRowFormat& f, const float* values, std::byte* data, std::byte* scale);
void decode_row(const KvRowFormat& f, const std::byte* data, const std::byte* scale, float* values);

}  // namespace kvasir
