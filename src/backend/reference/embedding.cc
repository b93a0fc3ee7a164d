// Rows of the embedding table, copied into every stream; contract in ops/embedding.h.
#include "backend/reference/reference_ops.h"

namespace kvasir {

void ReferenceOps::embed(const EmbedArgs& a) {
  KVASIR_CHECK(a.table.cols == a.streams.shape(2), "table of {} into streams of {}", a.table.cols, a.streams.shape(2));
  for (int64_t t = 0; t < a.ids.shape(0); ++t)
    for (int64_t s = 0; s < a.streams.shape(1); ++s) dequantise_row(a.table, a.ids(t), &a.streams(t, s, 0));
}

void ReferenceOps::gather_embedding(const GatherEmbeddingArgs& a) {
  KVASIR_CHECK(a.table.cols == a.out.shape(1), "table of {} into rows of {}", a.table.cols, a.out.shape(1));
  for (int64_t t = 0; t < a.ids.shape(0); ++t) dequantise_row(a.table, a.ids(t), a.out.row(t));
}

}  // namespace kvasir
