// kFast index selection at V4's shape: 64 heads of 128, FP4 keys.
#pragma once

#include "backend/cuda/context.h"
#include "ops/indexer.h"

namespace kvasir::cuda {

// Scores of every visible entry and the largest of every 16.
struct IndexScores {
  int64_t capacity = 0;        // of a row: max_length / ratio, up to a multiple of 64
  float* scores = nullptr;     // [T, capacity]
  float* group_max = nullptr;  // [T, capacity / 16]
};

// Calls with a few tokens of each sequence: scores of all keys in one launch, then the k best in another.
bool index_scan_serves(const IndexSelectArgs& args);
IndexScores take_index_scores(CudaContext& context, const IndexSelectArgs& args);
void index_scan(CudaContext& context, const IndexSelectArgs& args, const IndexScores& out);
void index_scan_select(CudaContext& context, const IndexSelectArgs& args, const IndexScores& scores);

}  // namespace kvasir::cuda
