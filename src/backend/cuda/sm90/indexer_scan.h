// kFast index selection at V4's shape: 64 heads of 128, FP4 keys.
#pragma once

#include "backend/cuda/context.h"
#include "ops/indexer.h"

namespace kvasir::cuda {

// index_query for heads of 128 with 32 rotated pairs.
bool index_query_rows_serves(const IndexQueryArgs& args);
void index_query_rows(CudaContext& context, const IndexQueryArgs& args);

// Scores of every visible entry and the largest of every 16.
struct IndexScores {
  int64_t capacity = 0;        // of a row: max_length / ratio, up to a multiple of 64
  float* scores = nullptr;     // [T, capacity]
  float* group_max = nullptr;  // [T, capacity / 16]
};

// Whether the shapes and the layout of the keys are those of the two kernels below.
bool index_kernels_serve(const IndexSelectArgs& args);

// Calls with a few tokens of each sequence: scores of all keys in one launch, then the k best in another.
bool index_scan_serves(const IndexSelectArgs& args);
IndexScores take_index_scores(CudaContext& context, const IndexSelectArgs& args);
// With `query` the scan does index_query's part itself, in registers: `args` names the same q and weight,
// which stay as they are in memory.
void index_scan(CudaContext& context, const IndexSelectArgs& args, const IndexScores& out,
                const IndexQueryArgs* query = nullptr);
void index_scan_select(CudaContext& context, const IndexSelectArgs& args, const IndexScores& scores);

// Calls with many tokens: no score is written, the k best are kept as the keys go by. One launch.
bool index_stream_serves(const IndexSelectArgs& args);
void index_stream(CudaContext& context, const IndexSelectArgs& args);

}  // namespace kvasir::cuda
