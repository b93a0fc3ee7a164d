// Embedding: token ids to the hyper-connection's identical residual streams. Source: spec 2.1.
#pragma once

#include "tensor/quant.h"
#include "tensor/view.h"

namespace kvasir {

// Ops::embed:  streams[t, s, :] = table[ids[t], :] for every stream s.
struct EmbedArgs {
  View<const int32_t, 1> ids;  // [T], each in [0, vocab): the caller has checked
  WeightMatrix table;          // [vocab, dim] bf16 or f32
  View<float, 3> streams;      // [T, hc, dim]
};

// Ops::gather_embedding:  out[t, :] = table[ids[t], :].  (MTP's token side, spec 8.)
struct GatherEmbeddingArgs {
  View<const int32_t, 1> ids;  // [T]
  WeightMatrix table;          // [vocab, dim]
  View<float, 2> out;          // [T, dim]
};

}  // namespace kvasir
