// The k best of each row of index scores, lowest entry number on ties, as ascending entry numbers and then
// -1.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/indexer.h"

namespace kvasir::cuda {

// Row i is row first_row + i of the call; it sees (its position + 1) / ratio entries.
struct TopkRows {
  const float* scores;  // [rows, capacity]; what lies behind the visible entries is not read
  int64_t capacity;
  const CacheSequence* sequences;
  const int32_t* row_sequence;
  int64_t first_row;
  int ratio;
  int32_t* selected;  // of row 0 of the call
  int64_t selected_stride;
  int topk;
};

// Any number of entries and any k: four passes of a radix select and one that writes.
void topk_rows_plain(cudaStream_t stream, const TopkRows& call, int64_t rows);

// With the largest of every 16 scores ([rows, capacity / 16], -inf where no entry is visible): up to 262144
// entries and k up to 1024. Reads those and 16 k scores, whatever the number of entries. Starts while the
// kernel before it ends.
bool topk_groups_serve(const IndexSelectArgs& args);
void topk_rows_of_groups(cudaStream_t stream, const TopkRows& call, const float* group_max, int64_t rows);

}  // namespace kvasir::cuda
