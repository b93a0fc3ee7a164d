// The compressor of the CUDA backend; contracts in ops/compressor.h.
#pragma once

#include "backend/cuda/context.h"
#include "ops/compressor.h"

namespace kvasir::cuda {

void compress(CudaContext& context, const CompressArgs& args);
// The two compressors of a CSA layer, of the same batch: kFast takes one launch for both.
void compress_pair(CudaContext& context, const CompressArgs& entry, const CompressArgs& key);

}  // namespace kvasir::cuda
