// Attention over the window and the compressed entries, one softmax with a sink. Source: spec 2.3, 5.
//
//   keys of row i at position t: window tokens max(0, t-window+1)..t, then entries (ascending):
//     kNone: none (SWA);  kSelected: selected[i, :] until -1 (CSA);  kAll: every b < (t+1)/ratio (HCA)
//   s_j = (q . k_j) * D^-0.5;  p_j = e^(s_j - m) / (sum e^(s - m) + e^(sink_h - m));  o = sum p_j k_j
// kNative: q and k bf16, f32 scores, p rounded to bf16 before P.V (m is the maximum over all the row's keys, so that
// the rounding does not depend on how keys are tiled), f32 sums, o rounded to bf16.
// The result of a row depends on its own keys alone, in list order.
#pragma once

#include "ops/kv_page.h"
#include "tensor/view.h"

namespace kvasir {

// Ops::store_window: row i of `out` = encode( rope(kv[i]) ), the step's own window rows (not yet in the ring).
struct StoreWindowArgs {
  View<const float, 2> kv;     // [T, D] after kv_norm
  View<const float, 3> table;  // [T, R/2, 2]
  KvRowFormat format;
  KvRows out;                  // T rows
};

// Ops::commit_window: copies the last min(tokens, capacity) of a sequence's rows into its ring, after attend.
struct CommitWindowArgs {
  KvRowFormat format;
  KvRows rows;         // `tokens` rows from store_window
  int64_t tokens = 0;
  int64_t start = 0;
  KvRows ring;
  int64_t capacity = 0;
};

enum class EntryChoice : uint8_t { kNone, kSelected, kAll };

// Ops::attend, for one sequence. Window tokens before `start` are read from the ring, the rest from `rows`.
struct AttendArgs {
  View<const float, 3> q;       // [tokens, H, D] rotated
  View<const float, 1> sink;    // [H]
  int64_t start = 0;
  int window = 128;
  KvRowFormat format;
  KvRows ring;
  int64_t ring_capacity = 0;
  KvRows rows;                  // this step's rows of the sequence
  EntryChoice choice = EntryChoice::kNone;
  int ratio = 0;
  View<const int32_t, 2> selected;  // [tokens, topk], kSelected only
  std::byte* const* pages = nullptr;
  PageSection entries;
  View<float, 3> out;           // [tokens, H, D], before the inverse rotation
};

}  // namespace kvasir
