// Radix select over scores in memory, one block a row; see topk_rows.h.
#include "backend/cuda/sm90/topk_rows.cuh"

namespace kvasir::cuda {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads) topk_plain_kernel(TopkRows c) {
  __shared__ int count[256];
  __shared__ int part[33];
  __shared__ uint32_t chosen;
  __shared__ int above;
  int64_t row = c.first_row + blockIdx.x, n = visible_entries(c, row);
  const float* scores = c.scores + blockIdx.x * c.capacity;
  int32_t* out = c.selected + row * c.selected_stride;
  if (n <= c.topk) {
    for (int64_t i = threadIdx.x; i < c.topk; i += kThreads) out[i] = i < n ? static_cast<int32_t>(i) : -1;
    return;
  }
  uint32_t prefix = 0;  // digits of the k-th score found so far
  int need = c.topk;    // how many are to be taken among the scores that share them
  for (int shift = 24; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) count[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += kThreads) {
      uint32_t key = sortable(scores[i]);
      if (shift == 24 || (key ^ prefix) >> (shift + 8) == 0) atomicAdd(&count[key >> shift & 255], 1);
    }
    __syncthreads();
    int digit = 255 - static_cast<int>(threadIdx.x), total;
    int mine = threadIdx.x < 256 ? count[digit] : 0;
    int before = block_exclusive_sum(mine, part, total);
    if (before < need && need <= before + mine) {
      chosen = prefix | static_cast<uint32_t>(digit) << shift;
      above = before;
    }
    __syncthreads();
    prefix = chosen;
    need -= above;
    __syncthreads();
  }
  int written = 0, equal_seen = 0;
  for (int64_t first = 0; first < n && written < c.topk; first += kThreads) {
    int64_t i = first + threadIdx.x;
    uint32_t key = i < n ? sortable(scores[i]) : 0;
    int total, equal = i < n && key == prefix;
    int equal_before = equal_seen + block_exclusive_sum(equal, part, total);
    equal_seen += total;
    int take = i < n && (key > prefix || (equal && equal_before < need));
    int at = written + block_exclusive_sum(take, part, total);
    if (take) out[at] = static_cast<int32_t>(i);
    written += total;
  }
}

}  // namespace

void topk_rows_plain(cudaStream_t stream, const TopkRows& call, int64_t rows) {
  topk_plain_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(call);
}

}  // namespace kvasir::cuda
