// Lightning indexer of CSA layers: scores every visible compressed entry and keeps the best. Source: spec 4.
//
//   I[t,b] = sum_h w[t,h] * relu( q[t,h] . key[b] ),  b < (t+1)/ratio;  keep the top `topk`, ties: lowest b.
// kNative: the dot, each product and the sum are bf16 (fp32 inside the dot), selection on bf16 scores.
#pragma once

#include "ops/kv_page.h"
#include "tensor/view.h"

namespace kvasir {

// Ops::index_query: q <- round_trip_fp4( hadamard( rope(q) ) ), in place, rope on the last R dims.
// The FP4 round trip happens under kNative only; kFast may quantise q in its own way inside index_select.
// The Hadamard transform is orthonormal (x * H * n^-0.5, Sylvester order), n a power of two.
// Also weight <- weight * weight_scale, rounded to bf16 under kNative.
struct IndexQueryArgs {
  View<float, 3> q;            // [T, Hi, Di]
  View<const float, 3> table;  // [T, R/2, 2]
  View<float, 2> weight;       // [T, Hi] from weights_proj
  float weight_scale = 1.f;    // Di^-0.5 * Hi^-0.5
};

// One sequence's part of index_select. Row i is at position start + i and sees entries b < (start+i+1)/ratio.
struct IndexSelectSequence {
  View<const float, 3> q;       // [tokens, Hi, Di], from index_query
  View<const float, 2> weight;  // [tokens, Hi], scaled by index_query
  int64_t start = 0;
  int ratio = 4;
  KvRowFormat format;           // of the keys
  std::byte* const* pages = nullptr;
  PageSection keys;
  View<int32_t, 2> selected;    // [tokens, topk] out: entry numbers ascending, then -1
};

// Ops::index_select
struct IndexSelectArgs {
  View<const float, 3> q;       // [T, Hi, Di], from index_query
  View<const float, 2> weight;  // [T, Hi], scaled by index_query
  CacheBatch batch;
  LayerPlace place;
  KvRowFormat format;           // of the keys
  View<int32_t, 2> selected;    // [T, topk] out: entry numbers ascending, then -1

  IndexSelectSequence sequence(int64_t i) const;
};

}  // namespace kvasir
