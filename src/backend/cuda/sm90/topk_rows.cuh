// Pieces of top-k kernels: sortable score bits, prefix sums over a block.
#pragma once

#include <cstdint>

#include "backend/cuda/sm90/topk_rows.h"

namespace kvasir::cuda {

// Bits that sort as the scores do; -0 equals 0.
__device__ __forceinline__ uint32_t sortable(float x) {
  uint32_t u = __float_as_uint(x + 0.f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

__device__ __forceinline__ int warp_inclusive_sum(int x) {
  int lane = threadIdx.x % 32;
  for (int i = 1; i < 32; i *= 2) {
    int y = __shfl_up_sync(0xffffffffu, x, i);
    if (lane >= i) x += y;
  }
  return x;
}

// Sum of x over the threads before this one; `total` over all. `part` is 33 ints of shared memory. Blocks of
// up to 1024 threads, whole warps. Ends on a barrier, so that `part` may be used again.
__device__ __forceinline__ int block_exclusive_sum(int x, int* part, int& total) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  int inclusive = warp_inclusive_sum(x);
  if (lane == 31) part[warp] = inclusive;
  __syncthreads();
  if (warp == 0) {
    int sum = lane < warps ? part[lane] : 0, before = warp_inclusive_sum(sum);
    if (lane < warps) part[lane] = before - sum;
    if (lane == 31) part[32] = before;
  }
  __syncthreads();
  int before = part[warp] + inclusive - x;
  total = part[32];
  __syncthreads();
  return before;
}

// Entries that row `row` of the call sees.
__device__ __forceinline__ int64_t visible_entries(const TopkRows& c, int64_t row) {
  const SequenceSpan& s = c.sequences[c.row_sequence[row]].span;
  return (s.start + row - s.first_row + 1) / c.ratio;
}

}  // namespace kvasir::cuda
