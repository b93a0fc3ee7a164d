// The k best of each row of index scores, lowest entry number on ties, as ascending entry numbers and then
// -1.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/kv_page.h"

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

}  // namespace kvasir::cuda
