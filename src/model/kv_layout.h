// KvLayout: where every layer's cache rows lie, in pages and in a sequence's own state.
//
// A page holds the compressed entries and index keys of all layers for 128 consecutive tokens: for each
// CSA layer 32 entries and 32 index keys, for each HCA layer 1 entry. The state of a sequence holds what
// does not grow: each layer's window ring and compressor tails. Both are plain bytes to whoever owns them.
//
//   page:   HCA layers: all entry data, then all entry scales (so that data rows stay 64-byte aligned), then
//           CSA layers: [32 entry data][32 entry scales][32 key data][32 key scales] each
//   state:  per layer: window data, window scales, compressor tail, index tail
//
// Rings are kRollbackSlack rows longer than attention needs, so that forgetting the last tokens (rejected
// drafts) is only a smaller length: nothing that the shorter sequence needs has been overwritten yet.
// Source: spec 10.1 (bytes), 3.3 (tail), trap 18.
#pragma once

#include <vector>

#include "model/config.h"
#include "ops/kv_page.h"

namespace kvasir {

inline constexpr int kPageTokens = 128;
inline constexpr int kRollbackSlack = 8;

struct KvLayout {
  KvRowFormat entry_format;
  KvRowFormat key_format;
  int64_t window_capacity = 0;
  int64_t page_bytes = 0;   // of one page, all layers
  int64_t state_bytes = 0;  // of one sequence
  std::vector<LayerPlace> layers;  // one per trunk layer, then one for the MTP block

  static KvLayout make(const ModelConfig& config, Numerics numerics);
  // Pages that a sequence of `tokens` needs.
  static int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }
  // Bytes of the parts of a page that layers need in this order: the HCA layers' together, then each CSA layer's.
  std::vector<int64_t> section_bytes() const;
  // Equal only for layouts that put every row of a page and of a state in the same place.
  uint64_t fingerprint() const;
};

}  // namespace kvasir
