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

// One sequence's part of commit_window.
struct CommitWindowSequence {
  KvRowFormat format;
  KvRows rows;         // `tokens` rows from store_window
  int64_t tokens = 0;
  int64_t start = 0;
  KvRows ring;
  int64_t capacity = 0;
};

// Ops::commit_window: copies the last min(tokens, capacity) of each sequence's rows into its ring, after attend.
struct CommitWindowArgs {
  KvRowFormat format;
  KvRows rows;         // T rows from store_window
  CacheBatch batch;
  LayerPlace place;

  // Readable only where the batch is.
  CommitWindowSequence sequence(int64_t i) const;
};

enum class EntryChoice : uint8_t { kNone, kSelected, kAll };

// One sequence's part of attend.
struct AttendSequence {
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

// Ops::attend. Window tokens before a sequence's `start` are read from its ring, the rest from `rows`.
struct AttendArgs {
  View<const float, 3> q;       // [T, H, D] rotated
  View<const float, 1> sink;    // [H]
  CacheBatch batch;
  LayerPlace place;
  int window = 128;
  KvRowFormat format;
  KvRows rows;                  // this call's T window rows
  EntryChoice choice = EntryChoice::kNone;
  View<const int32_t, 2> selected;  // [T, topk], kSelected only
  View<float, 3> out;           // [T, H, D], before the inverse rotation

  AttendSequence sequence(int64_t i) const;
};

// Ops::small_rows: everything between the first projections of a block and wq_b.
//   qa <- rms_norm(qa, q_norm), in place
//   rows[t] <- encode( rope( rms_norm(kv[t], kv_norm) ) )            as rms_norm and store_window would
struct SmallRowsArgs {
  View<float, 2> qa;            // [T, q_rank]
  View<const float, 1> q_norm;  // [q_rank]
  View<float, 2> kv;            // [T, D]; may be overwritten
  View<const float, 1> kv_norm; // [D]
  View<const float, 3> table;   // [T, R/2, 2]
  float eps = 1e-6f;
  KvRowFormat format;
  KvRows rows;                  // T rows
};

// Ops::attend_heads: attend with what stands on both sides of it. `attend.q` is wq_b's raw output: head_norm_rope before,
// the inverse rotation of the result behind.
struct AttendHeadsArgs {
  AttendArgs attend;
  View<const float, 3> table;  // [T, R/2, 2]
  float eps = 1e-6f;
  View<float, 3> q = {};       // attend.q, for whoever rotates in place
};

}  // namespace kvasir
