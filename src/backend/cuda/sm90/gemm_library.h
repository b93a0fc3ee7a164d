// Products with many rows by cuBLASLt, where it has one and is faster than the kernel of gemm_prefill.h
// (docs/gpu-notes/linear.md): FP8 with the scales of 1x128 and 128x128 blocks, and bf16.
#pragma once

#include "backend/cuda/sm90/gemm_prefill.h"

namespace kvasir::cuda {

// False: the library has no such product, nothing was enqueued.
bool product_library(CudaContext& context, const GroupedProduct& p, const PreparedRows& x);

}  // namespace kvasir::cuda
