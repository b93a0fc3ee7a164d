// The compressor of the CUDA backend; contracts in ops/compressor.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/compressor.h"

namespace kvasir::cuda {

void compress(CudaContext& context, const CompressArgs& args);

}  // namespace kvasir::cuda
