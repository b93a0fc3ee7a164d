// What attend (attention.cc, baseline code) asks of its kernels (attention_kernels.cc, one copy per ISA).
//
// The keys of one query are cut into segments: segment 0 is the window, segment 1 + i holds entries
// [256 i, 256 (i+1)) of its list (or, for kAll, of the sequence). A segment is attended with its own online
// softmax, in tiles of 64 keys whose edges are absolute token or list numbers; segments are then merged in
// ascending order. So a row's bits depend on its own list alone: not on the other rows, the threads or the
// split. Invariants of a partial result of a segment: m is the maximum score (-infinity: no key), l the sum
// of e^(s - m), o the sum of e^(s - m) k.
#pragma once

#include "backend/cpu/per_isa.h"
#include "ops/attention.h"

namespace kvasir::cpu {

inline constexpr int kKeyTile = 64;       // keys decoded and multiplied at a time
inline constexpr int kSegmentKeys = 256;  // entries of one segment; a multiple of kKeyTile

// AttendSequence without views, for code that must not instantiate inline functions.
struct AttendCall {
  const float* q = nullptr;
  int64_t q_token = 0, q_head = 0;  // strides
  const float* sink = nullptr;
  int heads = 0, dim = 0;
  int64_t start = 0, window = 0;
  bool quantised = false;
  int64_t nope = 0, rope = 0, data_bytes = 0, scale_bytes = 0;  // of a stored row
  KvRows ring, rows;
  int64_t ring_capacity = 0;
  EntryChoice choice = EntryChoice::kNone;
  int ratio = 0;
  const int32_t* selected = nullptr;
  int64_t selected_row = 0;         // stride
  const int32_t* counts = nullptr;  // [tokens] entries of each row
  std::byte* const* pages = nullptr;
  PageSection entries;
  float* out = nullptr;
  int64_t out_token = 0, out_head = 0;  // strides
  Numerics numerics = Numerics::kFast;
};

// A piece of work: rows (query, head) of queries [q0, q1) and heads [h0, h1), query major.
struct AttendBlock {
  int64_t q0 = 0, q1 = 0;
  int h0 = 0, h1 = 0;
  int64_t rows() const { return (q1 - q0) * (h1 - h0); }
};

// Partial results of `rows` rows: stats [rows][2] (m, l) and sums [rows][padded_dim].
struct AttendPartial {
  float* stats = nullptr;
  float* sums = nullptr;
};

struct AttentionKernels {
  // D rounded up to what the kernels compute with.
  int64_t (*padded_dim)(int64_t dim);
  // Scratch bytes that one worker needs for blocks of up to `rows` rows.
  int64_t (*scratch_bytes)(int64_t rows, int64_t dim);
  // All segments of the block, merged, divided and written to call.out.
  void (*attend)(const AttendCall& call, const AttendBlock& block, std::byte* scratch);
  // One segment of the block into `partial`. Not for kNative, whose weights need the maximum over all of
  // them.
  void (*attend_segment)(const AttendCall& call, const AttendBlock& block, int64_t segment,
                         const AttendPartial& partial, std::byte* scratch);
  // The block's partials, one per segment in ascending order, merged, divided and written to call.out. `into`
  // is used up.
  void (*merge)(const AttendCall& call, const AttendBlock& block, const AttendPartial* partials,
                int64_t segments);
};

KVASIR_PER_ISA(AttentionKernels, attention_kernels)

}  // namespace kvasir::cpu
