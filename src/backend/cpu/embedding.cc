#include "backend/cpu/embedding.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir::cpu {
namespace {

void copy_row(const WeightMatrix& table, int32_t id, float* out) {
  KVASIR_CHECK(id >= 0 && id < table.rows, "token {} of a vocabulary of {}", id, table.rows);
  dequantise_row(table, id, out);
}

}  // namespace

void embed(CpuContext& context, const EmbedArgs& args) {
  const int64_t tokens = args.ids.shape(0), streams = args.streams.shape(1), dim = args.streams.shape(2);
  KVASIR_CHECK(args.streams.shape(0) == tokens && args.table.cols == dim,
               "streams are [{}, {}, {}] for {} tokens of {}", args.streams.shape(0), streams, dim, tokens,
               args.table.cols);
  KVASIR_CHECK(args.streams.stride(2) == 1, "rows must be dense");
  context.pool.run(tokens, [&](int64_t t, int) {
    float* first = args.streams.row(t);
    copy_row(args.table, args.ids(t), first);
    for (int64_t s = 1; s < streams; ++s) std::copy(first, first + dim, first + s * args.streams.stride(1));
  });
}

void gather_embedding(CpuContext& context, const GatherEmbeddingArgs& args) {
  const int64_t tokens = args.ids.shape(0), dim = args.out.shape(1);
  KVASIR_CHECK(args.out.shape(0) == tokens && args.table.cols == dim, "out is [{}, {}] for {} tokens of {}",
               args.out.shape(0), dim, tokens, args.table.cols);
  KVASIR_CHECK(args.out.stride(1) == 1, "rows must be dense");
  context.pool.run(tokens, [&](int64_t t, int) { copy_row(args.table, args.ids(t), args.out.row(t)); });
}

}  // namespace kvasir::cpu
