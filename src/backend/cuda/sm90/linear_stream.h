// The kernel for few rows: reads every weight once, at the rate of the memory.
//
// Takes FP8 (block 128) and bf16 weights whose rows are a multiple of 128 bytes, and up to kStreamRows rows of x. FP8
// weights meet x as f16 with a power-of-two scale per 128 values (11 bits kept, exact's distance about 2e-4); bf16
// weights meet x as the sum of two bf16 (16 bits kept). Sums are f32, their order depends on the weights' shapes alone, so
// that a row's bits do not depend on how many rows, up to 8, the call has.
#pragma once

#include <span>

#include "backend/cuda/context.h"
#include "backend/cuda/sm90/linear_generic.h"

namespace kvasir::cuda {

constexpr int64_t kStreamRows = 32;
constexpr int kStreamSegments = 16;

// How a call is laid out on the device. 0: the kernel's own choice, made from the shape alone.
struct StreamTuning {
  int split = 0;          // CTAs (one cluster) that share the K of a tile: 1, 2, 4 or 8
  bool any_rows = false;  // a row's bits are the same in calls of any number of rows up to kStreamRows, not only up to 8
  bool dependent = true;  // start while the kernel before still runs (programmatic dependent launch)
};

// Whether the kernel takes these products together: same x, tokens, k; one group each, or one product of many groups.
bool stream_takes(int sm_count, std::span<const GroupedProduct> products, const StreamTuning& tuning = {});
void product_stream(CudaContext& context, std::span<const GroupedProduct> products, const StreamTuning& tuning = {});

}  // namespace kvasir::cuda
