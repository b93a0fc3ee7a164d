// The generic product: every format, shape, number of rows and numerics. Plain f32 arithmetic on dequantised
// operands, tiled in shared memory; the order of summation of an output depends on K alone.
#pragma once

#include "backend/cuda/context.h"
#include "tensor/quant.h"

namespace kvasir::cuda {

// y = x * W^T for `groups` products side by side: group g takes rows [g*n, (g+1)*n) of W and columns g of x and out.
struct GroupedProduct {
  WeightMatrix w;              // [groups*n, k]
  const float* x = nullptr;    // [tokens, groups, k]
  float* out = nullptr;        // [tokens, groups, n]
  int64_t tokens = 0, groups = 1, n = 0, k = 0;
  bool quantise = false;       // x through e4m3 per 128 first (spec A.2)
  bool round = false;          // result to bf16
  bool wide = false;           // kFast: x keeps at least the bits of bf16 (kinds kBf16 and kFloat)
};

void product_generic(CudaContext& context, const GroupedProduct& p);

}  // namespace kvasir::cuda
