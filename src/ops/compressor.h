// Compressor: pools `ratio` consecutive tokens into one cache row, and keeps the tail that later
// tokens need. V4 uses it three times: CSA entries and their index keys (ratio 4, lanes 2: each
// group also sees the group before it) and HCA entries (ratio 128, lanes 1). Source: spec 3.
//
//   z[j]    = score[j] + ape[j % ratio]
//   C[b][e] = sum_i softmax_i(z[j_i, c_i]) * kv[j_i, c_i]      over the lanes*ratio tokens of group b
//             lanes 2: tokens 4b-4..4b-1 use channel c_i = e, tokens 4b..4b+3 use c_i = d + e;
//             group 0 has no earlier tokens. Per channel, maximum subtracted.
//   row b   = encode( rope( rmsnorm( round(C[b]) ), position b*ratio ) )          kind kEntry
//             encode( hadamard( rope( rmsnorm( round(C[b]) ) ) ) )                kind kIndexKey
// A row exists once its last token is in. It does not depend on how the tokens were cut into steps.
//
// The tail is a ring of the last tokens' (kv, z), so that rollback is only a smaller token count:
// token p is row p % tail_capacity, each row 2*lanes*d floats: kv then z. A group is pooled from the
// ring for tokens before `start` and from this step's rows otherwise; afterwards the step's last
// min(tokens, tail_capacity) tokens are written to the ring. tail_capacity >= lanes*ratio - 1 + slack.
#pragma once

#include "ops/kv_page.h"
#include "tensor/view.h"

namespace kvasir {

enum class CompressKind : uint8_t { kEntry, kIndexKey };

// One sequence's part of compress. Writes entries [start/ratio, (start+tokens)/ratio) into its pages.
struct CompressSequence {
  CompressKind kind = CompressKind::kEntry;
  int ratio = 4;
  int lanes = 2;                  // 2 for ratio 4, else 1
  View<const float, 2> kv;        // [tokens, lanes*d] this step's projections, without ape
  View<const float, 2> score;     // [tokens, lanes*d]
  View<const float, 2> ape;       // [ratio, lanes*d]
  View<const float, 1> norm;      // [d]
  float norm_eps = 1e-6f;
  View<const float, 1> inv_freq;  // [R/2] of the layer
  int64_t start = 0;              // position of row 0
  float* tail = nullptr;          // [tail_capacity, 2, lanes*d]
  int64_t tail_capacity = 0;
  KvRowFormat format;             // of the rows written
  std::byte* const* pages = nullptr;
  PageSection section;
};

// Ops::compress. Rows go to CacheSequence::written_pages.
struct CompressArgs {
  CompressKind kind = CompressKind::kEntry;
  int lanes = 2;
  View<const float, 2> kv;        // [T, lanes*d]
  View<const float, 2> score;     // [T, lanes*d]
  View<const float, 2> ape;       // [ratio, lanes*d]
  View<const float, 1> norm;      // [d]
  float norm_eps = 1e-6f;
  View<const float, 1> inv_freq;  // [R/2] of the layer
  CacheBatch batch;
  LayerPlace place;               // kEntry: tail and entries; kIndexKey: index_tail and keys
  KvRowFormat format;             // of the rows written

  CompressSequence sequence(int64_t i) const;
};

}  // namespace kvasir
