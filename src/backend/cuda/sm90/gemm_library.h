// Products with many rows by cuBLASLt, for bf16 weights, where it is faster than the kernel of gemm_prefill.h
// (docs/gpu-notes/linear.md).
#pragma once

#include "backend/cuda/sm90/gemm_prefill.h"

namespace kvasir::cuda {

// False: the library has no such product, nothing was enqueued.
bool product_library(CudaContext& context, const GroupedProduct& p, const PreparedRows& x);

}  // namespace kvasir::cuda
